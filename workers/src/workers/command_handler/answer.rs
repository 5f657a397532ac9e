use std::fmt;

use brigade_contracts::{Outcome, user::Tokens};
use serde::Deserialize;

/// An outcome as it is stored and sent.
#[derive(Clone)]
pub struct Answer {
    pub status: u16,
    /// As it is stored: without a secret.
    pub body: String,
    /// What the sender gets instead: with tokens.
    told: Option<String>,
    /// It was decided before; this is a repetition.
    pub again: bool,
    /// Its Command-Id belongs to another command; this is no outcome, and is not stored.
    pub reused: bool,
}

impl Answer {
    /// # Panics
    /// Never: an outcome serialises.
    #[must_use]
    pub fn new(outcome: &Outcome) -> Self {
        let body = serde_json::to_string(outcome).expect("an outcome serialises");
        Self { status: outcome.status, body, told: None, again: false, reused: false }
    }

    /// `tokens` are for the sender alone.
    #[must_use]
    pub fn with_tokens(outcome: &Outcome, tokens: Option<&Tokens>) -> Self {
        Self { told: tokens.map(|tokens| tokens.answer(outcome)), ..Self::new(outcome) }
    }

    /// One that was decided before, as it was stored.
    #[must_use]
    pub fn stored(body: String) -> Self {
        #[derive(Deserialize)]
        struct Status {
            status: u16,
        }
        let status = serde_json::from_str(&body).map_or(500, |Status { status }| status);
        Self { status, body, told: None, again: true, reused: false }
    }

    /// The same for whoever asks again.
    #[must_use]
    pub fn repeated(self) -> Self {
        Self { again: true, told: None, ..self }
    }

    /// What the sender gets. It may hold tokens: never to be kept or printed.
    #[must_use]
    pub fn sent(&self) -> &str {
        self.told.as_deref().unwrap_or(&self.body)
    }

    /// What the outcome says it is.
    #[must_use]
    pub fn code(&self) -> String {
        #[derive(Deserialize)]
        struct Code {
            code: String,
        }
        serde_json::from_str(&self.body).map_or_else(|_| String::new(), |Code { code }| code)
    }

    /// Whether it is stored: what is to be tried again is not.
    #[must_use]
    pub fn is_final(&self) -> bool {
        self.status != 503
    }
}

/// Without what is told to the sender alone.
impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { status, body, told: _, again, reused } = self;
        f.debug_struct("Answer")
            .field("status", status)
            .field("body", body)
            .field("again", again)
            .field("reused", reused)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use brigade_contracts::{Refusal, Secret, Timestamp};
    use serde_json::Value;

    use super::*;

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
        assert_eq!((stored.status, stored.code().as_str(), stored.again), (200, "ok", true));
    }
}
