//! Asks command-handler to decide that a lock has expired, and reads its answer.

use std::time::Duration;

use async_nats::{HeaderMap, Request};
use brigade_contracts::{Address, Body, Outcome, Token, cart, header, subject};
use uuid::Uuid;

use crate::infra::Context;

/// An answer takes milliseconds. A handler that has died, or is stopped, with the question in hand
/// gives none, and the next one has to be asked soon enough to end the lock in time.
const PATIENCE: Duration = Duration::from_millis(500);

/// A lock as a timer or a row of SQL names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lock {
    pub cart: Address,
    pub owner: Token,
    pub token: i64,
}

/// What came of asking.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    /// It is released, or extended because a payment is open under it.
    Decided,
    /// There is no such lock any more.
    Stale,
    /// Milliseconds until its deadline.
    NotDue(u64),
    /// Nobody decides now.
    Away(String),
    /// An answer that nobody expects.
    Refused(String),
}

impl Asked {
    /// Whether it has to be asked again.
    pub fn failed(&self) -> bool {
        matches!(self, Self::Away(_) | Self::Refused(_))
    }

    fn as_str(&self) -> &'static str {
        match self {
            Self::Decided => "decided",
            Self::Stale => "stale",
            Self::NotDue(_) => "not_due",
            Self::Away(_) => "away",
            Self::Refused(_) => "refused",
        }
    }
}

/// Asks once, under a new Command-Id: what an earlier attempt was answered says nothing about now.
pub async fn expire(cx: &Context, lock: &Lock) -> Asked {
    let body = Body::Cart(cart::Verb::ExpireLock(cart::Held { token: lock.token }));
    let (_, payload) = body.encode();
    let mut headers = HeaderMap::new();
    headers.insert(header::COMMAND_ID, Uuid::now_v7().to_string());
    headers.insert(header::ACTOR, cx.worker.as_str());
    let request = Request::new().headers(headers).payload(payload.into()).timeout(Some(PATIENCE));
    let subject = subject::expire_lock(&lock.cart);
    let asked = match cx.nats.client.send_request(subject, request).await {
        Ok(answer) => read(&answer.payload),
        Err(error) => Asked::Away(format!("command-handler: {error}")),
    };
    cx.metrics.lock_expiries.with_label_values(&[asked.as_str()]).inc();
    asked
}

fn read(answer: &[u8]) -> Asked {
    let Ok(outcome) = serde_json::from_slice::<Outcome>(answer) else {
        return Asked::Refused("an answer that is no outcome".to_owned());
    };
    let Outcome { status, code, retry_after_ms, .. } = outcome;
    match (status, code.as_ref()) {
        (200, _) => Asked::Decided,
        (404, "not_found") | (409, "stale_token") => Asked::Stale,
        (409, "not_due") => Asked::NotDue(retry_after_ms.unwrap_or(0)),
        (429 | 503, _) => Asked::Away(format!("command-handler: {code}")),
        _ => Asked::Refused(format!("{status} {code}")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn answered(status: u16, code: &str, retry_after_ms: Option<u64>) -> Asked {
        let outcome = json!({
            "command_id": "k1", "status": status, "code": code, "message": "", "aggregate": "cart",
            "id": "c1", "version": 7, "etag": null, "effects": [], "data": {},
            "retry_after_ms": retry_after_ms,
        });
        read(outcome.to_string().as_bytes())
    }

    #[test]
    fn each_outcome_is_understood() {
        assert_eq!(answered(200, "ok", None), Asked::Decided);
        assert_eq!(answered(409, "stale_token", None), Asked::Stale);
        assert_eq!(answered(404, "not_found", None), Asked::Stale);
        assert_eq!(answered(409, "not_due", Some(70)), Asked::NotDue(70));
        assert!(matches!(answered(503, "busy", Some(500)), Asked::Away(_)));
        assert!(matches!(answered(429, "too_many", Some(500)), Asked::Away(_)));
        // Of an older command-handler, which does not end locks: no reason to forget this one.
        assert_eq!(answered(404, "unknown_verb", None), Asked::Refused("404 unknown_verb".into()));
        assert!(matches!(answered(409, "command_id_reused", None), Asked::Refused(_)));
        assert!(matches!(read(b"not JSON"), Asked::Refused(_)));
    }
}
