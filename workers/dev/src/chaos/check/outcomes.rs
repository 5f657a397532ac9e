//! I-1, I-14 and I-16: each command that was stored or answered has one final outcome, which nobody
//! sees change, and its effect once; or one dead letter and no effect.

use super::{ChaosFinding, Evidence, reads::parse};
use crate::chaos::history::{ByKey, Operation, OperationResult, ReportedOutcome, Way, by_command};

/// Verbs whose repetition is decided again, because no token is stored.
const DECIDED_AGAIN: [&str; 2] = ["login", "refresh"];
/// Kinds of effects that are aggregates, which have events.
const AGGREGATES: [&str; 6] = ["cart", "order", "payment", "table", "user", "product"];

/// Returns the commands with no outcome, several, or another effect.
#[must_use]
pub fn check(operations: &[Operation], evidence: &Evidence) -> Vec<ChaosFinding> {
    let commands: ByKey<'_> = by_command(operations);
    let mut found = Vec::new();
    for ((tenant, id), attempts) in commands {
        found.extend(of_command(tenant, id, &attempts, evidence));
    }
    found
}

fn of_command(
    tenant: &str,
    id: &str,
    attempts: &[&Operation],
    evidence: &Evidence,
) -> Option<ChaosFinding> {
    let key = (tenant.to_owned(), id.to_owned());
    let finding = |invariant, what: &str| {
        Some(ChaosFinding::new(
            invariant,
            format!("{tenant}, command {id}: {what}"),
            attempts.to_vec(),
        ))
    };
    let stored = evidence.inbox.get(&key);
    let letters = evidence.letters.get(&key).copied().unwrap_or_default();
    let again = attempts.iter().any(|attempt| DECIDED_AGAIN.contains(&&*attempt.verb));
    // What the request door was told to wait for was not stored: it is decided anew. And what a
    // failover may have lost says nothing, unless it is still there.
    let is_kept = |attempt: &&&Operation| {
        let waits = attempt.outcome().is_some_and(|outcome| outcome.waits);
        let is_decided_anew = waits && matches!(attempt.way, Way::Request | Way::Http);
        !is_decided_anew && !evidence.eras.may_be_lost(attempt)
    };
    let answers: Vec<&ReportedOutcome> =
        attempts.iter().filter(is_kept).filter_map(|attempt| attempt.outcome()).collect();
    if let Some(first) = answers.first() {
        if !again && answers.iter().any(|other| !same(first, other)) {
            return finding("I-1", "its outcome changed");
        }
        match stored {
            None => return finding("I-1", "it was answered, and SQL has no outcome"),
            Some(stored) if !again && !same(first, stored) => {
                return finding("I-1", &format!("SQL has another outcome: {stored:?}"));
            }
            Some(_) => {}
        }
    }
    let sent = attempts.iter().filter(|attempt| attempt.way.is_command()).count();
    match stored {
        Some(_) if letters > 0 && sent == 1 && !evidence.is_tried_again(attempts[0]) => {
            finding("I-14", "it is done and a dead letter")
        }
        Some(stored) => wrong_effect(&key, stored, evidence).and_then(|what| finding("I-1", &what)),
        None if letters == 0 => {
            let lost = attempts.iter().find(|attempt| is_owed(attempt, evidence))?;
            let facts = matches!(&*lost.verb, "record_result" | "confirm_cash");
            let invariant = if facts { "I-16" } else { "I-1" };
            finding(invariant, "it was stored, and has neither an outcome nor a dead letter")
        }
        None if evidence.events.contains_key(&key) => {
            finding("I-14", "it is a dead letter and has events")
        }
        None => None,
    }
}

/// Returns true if something has to be known of an attempt that was acknowledged.
fn is_owed(attempt: &Operation, evidence: &Evidence) -> bool {
    let OperationResult::Stored { stream, .. } = &attempt.answer else { return false };
    !evidence.was_lost_after(stream, attempt)
}

/// Returns true if two answers are the same outcome.
pub fn same(one: &ReportedOutcome, other: &ReportedOutcome) -> bool {
    let what = |of: &ReportedOutcome| (of.status, of.code.clone(), of.version, of.effects.clone());
    what(one) == what(other)
}

/// Compares the effects that an outcome tells with the events of its command.
fn wrong_effect(
    key: &(String, String),
    outcome: &ReportedOutcome,
    evidence: &Evidence,
) -> Option<String> {
    let none = Vec::new();
    let events = evidence.events.get(key).unwrap_or(&none);
    let effects: Vec<(&str, u64)> = outcome.effects.iter().filter_map(|e| parse(e)).collect();
    let of_aggregates = effects
        .iter()
        .filter(|(address, _)| AGGREGATES.contains(&address.split('.').next().unwrap_or_default()));
    for (address, version) in of_aggregates {
        if !events.iter().any(|event| event.address == *address && event.version == *version) {
            return Some(format!("no event of it is {address}@{version}"));
        }
    }
    for event in events {
        // Any command that meets a lock past its deadline decides that as well.
        let is_expiry = event.name.starts_with("lock_ex");
        let effect = effects.iter().find(|(address, _)| *address == event.address);
        if !is_expiry && effect.is_none_or(|(_, version)| event.version > *version) {
            return Some(format!(
                "its outcome does not tell of {}@{}",
                event.address, event.version
            ));
        }
    }
    None
}
