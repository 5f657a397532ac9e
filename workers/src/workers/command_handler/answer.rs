use std::fmt;

use brigade_contracts::{Door, Outcome, user::Tokens};
use serde::Deserialize;
use serde_json::Value;

/// An outcome as it is stored and sent.
#[derive(Clone)]
pub struct Answer {
    pub status: u16,
    /// The outcome as it is stored, without a secret.
    pub body: String,
    /// The outcome as its sender gets it, if that holds secrets.
    with_secrets: Option<String>,
    /// It says how long to wait before the command is sent again.
    waits: bool,
    /// It was decided before; this is a repetition.
    pub is_repeated: bool,
    /// Its Command-Id belongs to another command; this is no outcome, and is not stored.
    pub reused: bool,
    /// Its tenant is not served; it is not stored, so that the command may be decided later.
    pub is_of_tenant: bool,
}

impl Answer {
    /// Returns the answer of an outcome without tokens.
    ///
    /// # Panics
    /// Never: an outcome serialises.
    #[must_use]
    pub fn new(outcome: &Outcome) -> Self {
        let body = serde_json::to_string(outcome).expect("an outcome serialises");
        Self {
            status: outcome.status,
            body,
            with_secrets: None,
            waits: outcome.retry_after_ms.is_some(),
            is_repeated: false,
            reused: false,
            is_of_tenant: false,
        }
    }

    /// Returns the answer to a command whose tenant is not served.
    #[must_use]
    pub fn of_tenant(outcome: &Outcome) -> Self {
        Self { is_of_tenant: true, ..Self::new(outcome) }
    }

    /// Returns the answer of an outcome. Its tokens are for the sender alone.
    #[must_use]
    pub fn with_tokens(outcome: &Outcome, tokens: Option<&Tokens>) -> Self {
        Self { with_secrets: tokens.map(|tokens| tokens.answer(outcome)), ..Self::new(outcome) }
    }

    /// Returns the answer of an outcome that was decided before, as it was stored.
    #[must_use]
    pub fn stored(body: String) -> Self {
        #[derive(Deserialize)]
        struct Status {
            status: u16,
        }
        let status = serde_json::from_str(&body).map_or(500, |Status { status }| status);
        Self {
            status,
            body,
            with_secrets: None,
            // It is final, however long ago it was said.
            waits: false,
            is_repeated: true,
            reused: false,
            is_of_tenant: false,
        }
    }

    /// Returns the same answer for a repetition of its command.
    #[must_use]
    pub fn repeated(self) -> Self {
        Self { is_repeated: true, with_secrets: None, ..self }
    }

    /// Returns the same answer with secrets that belong to its command, if that is done. They are
    /// told again with each repetition, and stored with none.
    #[must_use]
    pub fn telling(self, told: Vec<(&'static str, Value)>) -> Self {
        if told.is_empty() || !(200..300).contains(&self.status) {
            return self;
        }
        let outcome = serde_json::from_str::<Outcome>(&self.body).ok();
        Self { with_secrets: outcome.map(|outcome| outcome.telling(told)), ..self }
    }

    /// Returns the outcome as its sender gets it. It may hold secrets: never store or print it.
    #[must_use]
    pub fn sent(&self) -> &str {
        self.with_secrets.as_deref().unwrap_or(&self.body)
    }

    /// Returns the code of the outcome.
    #[must_use]
    pub fn code(&self) -> String {
        #[derive(Deserialize)]
        struct Code {
            code: String,
        }
        serde_json::from_str(&self.body).map_or_else(|_| String::new(), |Code { code }| code)
    }

    /// Returns whether the command is decided. By an outcome of 503 it is not: it is to be retried.
    #[must_use]
    pub fn is_final(&self) -> bool {
        self.status != 503
    }

    /// Returns whether it is stored, so that a repeated command gets it again. On the request door
    /// one that waiting cures is not, since its sender can repeat the command; on the durable door
    /// nobody may be left to do so.
    #[must_use]
    pub fn is_stored(&self, door: Door) -> bool {
        self.is_final() && !(self.waits && door == Door::Request)
    }
}

/// Without the secrets.
impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { status, body, with_secrets: _, waits, is_repeated, reused, is_of_tenant } = self;
        f.debug_struct("Answer")
            .field("status", status)
            .field("body", body)
            .field("waits", waits)
            .field("is_repeated", is_repeated)
            .field("reused", reused)
            .field("is_of_tenant", is_of_tenant)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use brigade_contracts::{Refusal, Secret, Timestamp};
    use serde_json::json;

    use super::*;

    #[test]
    fn what_waiting_cures_is_stored_on_the_durable_door_alone() {
        let answer = |status, retry_after_ms| {
            let refusal = Refusal { retry_after_ms, ..Refusal::new(status, "code", "why") };
            let answer = Answer::new(&Outcome::unaddressed("req.t1.cart.c1.lock", refusal));
            (answer.is_stored(Door::Request), answer.is_stored(Door::Durable))
        };
        assert_eq!(answer(409, None), (true, true));
        assert_eq!(answer(423, Some(500)), (false, true));
        assert_eq!(answer(409, Some(500)), (false, true));
        assert_eq!(answer(503, Some(500)), (false, false));
    }

    #[test]
    fn tokens_are_sent_and_neither_stored_nor_repeated_nor_printed() {
        let secret = |text: &str| Secret::new(text.to_owned()).unwrap();
        let at = Timestamp::parse("2026-01-02T03:04:05.678Z").unwrap();
        let tokens = Tokens {
            access_token: secret("ada.access"),
            refresh_token: secret("ada.refresh"),
            expires_at: at,
            refresh_expires_at: at,
        };
        let outcome =
            Outcome::unaddressed("req.t1.user.ada.login", Refusal::new(200, "ok", "done"));
        let answer = Answer::with_tokens(&outcome, Some(&tokens));
        let sent: Value = serde_json::from_str(answer.sent()).unwrap();
        assert_eq!(sent["data"]["access_token"], "ada.access");
        assert_eq!(sent["data"]["refresh_token"], "ada.refresh");
        let printed = format!("{answer:?}");
        let repeated = answer.clone().repeated();
        for kept in [&answer.body, repeated.sent(), &printed] {
            assert!(kept.contains("ok") && !kept.contains("ada.access"), "{kept}");
            assert!(!kept.contains("ada.refresh"), "{kept}");
        }
        let stored = Answer::stored(answer.body);
        assert_eq!((stored.status, stored.code().as_str(), stored.is_repeated), (200, "ok", true));
    }

    #[test]
    fn a_secret_of_a_command_that_is_done_is_told_each_time_in_the_same_words() {
        let outcome = |status| {
            Outcome::unaddressed("req.t1.cart.c1.open", Refusal::new(status, "code", "why"))
        };
        let told = || vec![("secret", json!("hidden"))];
        let first = Answer::new(&outcome(201)).telling(told());
        assert_eq!(
            serde_json::from_str::<Value>(first.sent()).unwrap()["data"],
            json!({"secret": "hidden"})
        );
        assert!(!first.body.contains("hidden") && !format!("{first:?}").contains("hidden"));
        let again = Answer::stored(first.body.clone());
        assert!(!again.sent().contains("hidden"));
        assert_eq!(again.telling(told()).sent(), first.sent());
        let refused = Answer::new(&outcome(409)).telling(told());
        assert!(!refused.sent().contains("hidden"));
    }
}
