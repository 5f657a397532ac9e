//! Has command-handler decide that a lock has expired.

use std::time::Duration;

use brigade_contracts::{Address, Body, Outcome, Token, cart};

use super::ExpiryMetrics;
use crate::{
    infra::Context,
    runtime::{CommandClient, CommandOptions, NotDecided},
};

/// An outcome takes milliseconds. A handler that has died, or is stopped, with the command in hand
/// sends none, and the next one must get the command soon enough to end the lock in time.
const TIMEOUT: Duration = Duration::from_millis(500);

/// A lock as a timer or a row of SQL names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExpiringLock {
    pub cart: Address,
    pub owner: Token,
    pub token: i64,
}

/// A decision of command-handler about a lock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExpiryDecision {
    /// The lock is released, or extended because a payment is open under it.
    Decided,
    /// The lock does not exist any more.
    Stale,
    /// Milliseconds until the deadline of the lock.
    NotDue(u64),
}

impl ExpiryDecision {
    /// The values of the label `outcome` in metrics.
    pub const LABELS: [&str; 3] = ["decided", "stale", "not_due"];

    fn label(&self) -> &'static str {
        match self {
            Self::Decided => "decided",
            Self::Stale => "stale",
            Self::NotDue(_) => "not_due",
        }
    }
}

/// Sends `expire_lock` once, under a new Command-Id, and counts its outcome.
///
/// # Errors
/// If command-handler does not decide, or gives an outcome that it has for no lock.
pub async fn expire(
    cx: &Context,
    metrics: &ExpiryMetrics,
    lock: &ExpiringLock,
) -> Result<ExpiryDecision, NotDecided> {
    let body = Body::Cart(cart::Verb::ExpireLock(cart::Held { token: lock.token }));
    let client = CommandClient::new(cx, TIMEOUT);
    let outcome = client.send(&lock.cart, &body, CommandOptions::default()).await;
    let decision = outcome.and_then(|outcome| decision(&outcome));
    let label = decision.as_ref().map_or_else(NotDecided::label, ExpiryDecision::label);
    metrics.lock_expiries.with_label_values(&[label]).inc();
    decision
}

fn decision(outcome: &Outcome) -> Result<ExpiryDecision, NotDecided> {
    match (outcome.status, outcome.code.as_ref()) {
        (200, _) => Ok(ExpiryDecision::Decided),
        (404, "not_found") | (409, "stale_token") => Ok(ExpiryDecision::Stale),
        (409, "not_due") => Ok(ExpiryDecision::NotDue(outcome.retry_after_ms.unwrap_or(0))),
        _ => Err(NotDecided::unexpected(outcome)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::command_client::outcome;

    #[test]
    fn each_outcome_is_understood() {
        let decision = |status, code, after| decision(&outcome(status, code, after));
        assert_eq!(decision(200, "ok", None), Ok(ExpiryDecision::Decided));
        assert_eq!(decision(409, "stale_token", None), Ok(ExpiryDecision::Stale));
        assert_eq!(decision(404, "not_found", None), Ok(ExpiryDecision::Stale));
        assert_eq!(decision(409, "not_due", Some(70)), Ok(ExpiryDecision::NotDue(70)));
        // Of an older command-handler, which does not end locks: no reason to forget this one.
        assert!(matches!(decision(404, "unknown_verb", None), Err(NotDecided::Refused(_))));
        assert!(matches!(decision(409, "command_id_reused", None), Err(NotDecided::Refused(_))));
    }
}
