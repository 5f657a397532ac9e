//! I-5 and I-6: no answer is older than what was known before it was asked for, none is of the
//! future, and nobody sees a version go down.
//!
//! The versions of an aggregate are numbered by their commits, so this is exactly linearizability
//! of reads and writes of each key: an order exists if and only if no operation that had ended
//! before another one began has the higher version. No search is needed for that.

use std::collections::{HashMap, HashSet};

use super::{ChaosFinding, Evidence};
use crate::chaos::{
    history::{Micros, Operation, OperationResult, Way},
    nemesis::Blow,
};

/// A version of a key, as an operation told it.
struct ObservedVersion<'a> {
    version: u64,
    by: &'a Operation,
}

/// What is told about one key.
#[derive(Default)]
struct Key<'a> {
    /// Everything that says that this version was there when it ended.
    facts: Vec<ObservedVersion<'a>>,
    /// The answers that must not be older than these.
    reads: Vec<ObservedVersion<'a>>,
}

/// Keys by tenant and `<aggregate>.<id>`; of lists `<aggregate>.<id>#core`.
type Keys<'a> = HashMap<(&'a str, String), Key<'a>>;

/// An outcome is sent when its projection was written, or could not be within a second. So for this
/// long after a recovery nothing is expected of KV.
const CALM: Micros = 10_000_000;

/// Returns what is stale, of the future, or goes down.
#[must_use]
pub fn check(operations: &[Operation], evidence: &Evidence, blows: &[Blow]) -> Vec<ChaosFinding> {
    let keys = keys(operations);
    let mut found = Vec::new();
    for ((tenant, key), told) in keys {
        found.extend(stale(tenant, &key, told.facts.iter(), told.reads.iter()));
        found.extend(of_the_future(tenant, &key, &told, evidence));
    }
    found.extend(goes_down(operations));
    found.extend(missing_in_lists(operations));
    found.extend(answered_before_projected(operations, blows));
    found
}

/// Returns the counters in KV that are older than an outcome that was answered before, although
/// nothing was broken.
fn answered_before_projected(operations: &[Operation], blows: &[Blow]) -> Vec<ChaosFinding> {
    let is_calm = |by: &Operation| {
        blows.iter().all(|blow| by.ended < blow.struck || by.begun > blow.over + CALM)
    };
    let mut answered: HashMap<(&str, &str), Vec<&Operation>> = HashMap::new();
    // A query of an outcome is answered as soon as it is committed.
    let is_sent = |by: &&Operation| matches!(by.way, Way::Request | Way::Http);
    let is_done = |by: &&Operation| by.outcome().is_some_and(|outcome| outcome.status < 300);
    for by in operations.iter().filter(is_sent).filter(is_done) {
        answered.entry((&by.tenant, &by.key)).or_default().push(by);
    }
    let version = |by: &Operation| by.outcome().and_then(|outcome| outcome.version);
    let mut found = Vec::new();
    for read in operations.iter().filter(|by| by.way == Way::Kv && is_calm(by)) {
        let OperationResult::Versions { of, .. } = &read.answer else { continue };
        let known = answered.get(&(&*read.tenant, &*read.key)).into_iter().flatten();
        let known = known.filter(|by| by.ended < read.begun && is_calm(by));
        let newest = known.max_by_key(|by| version(by));
        if let (Some(newest), Some((_, there))) = (newest, of.first())
            && version(newest) > Some(*there)
        {
            let what = format!("{}.{} was answered before it was in KV", read.tenant, read.key);
            found.push(ChaosFinding::new("I-4", what, [*newest, read]));
        }
    }
    found
}

fn keys(operations: &[Operation]) -> Keys<'_> {
    let mut keys: Keys<'_> = HashMap::new();
    for by in operations {
        match &by.answer {
            OperationResult::Final(outcome) => {
                let mut fact = |key: String, version: u64| {
                    keys.entry((&by.tenant, key))
                        .or_default()
                        .facts
                        .push(ObservedVersion { version, by });
                };
                if let Some(version) = outcome.version {
                    fact(by.key.to_string(), version);
                }
                if let Some(core) = outcome.core.filter(|_| by.key.starts_with("order.")) {
                    fact(format!("{}#core", by.key), core);
                }
                for (key, version) in outcome.effects.iter().filter_map(|e| parse(e)) {
                    fact(key.to_owned(), version);
                }
            }
            OperationResult::Versions { of, .. } if by.way != Way::Kv => {
                for (key, version) in of {
                    let told = keys.entry((&by.tenant, key.clone())).or_default();
                    let version = *version;
                    told.facts.push(ObservedVersion { version, by });
                    if by.way.is_read() {
                        told.reads.push(ObservedVersion { version, by });
                    }
                }
            }
            _ => {}
        }
    }
    keys
}

/// Splits `<kind>.<id>@<version>`.
pub fn parse(effect: &str) -> Option<(&str, u64)> {
    let (key, version) = effect.split_once('@')?;
    Some((key, version.parse().ok()?))
}

/// Returns the reads that are older than what was known before they began.
fn stale<'a>(
    tenant: &str,
    key: &str,
    facts: impl Iterator<Item = &'a ObservedVersion<'a>>,
    reads: impl Iterator<Item = &'a ObservedVersion<'a>>,
) -> Vec<ChaosFinding> {
    let (mut facts, mut reads): (Vec<_>, Vec<_>) = (facts.collect(), reads.collect());
    facts.sort_by_key(|told| told.by.ended);
    reads.sort_by_key(|told| told.by.begun);
    let (mut next, mut newest): (usize, Option<&ObservedVersion<'_>>) = (0, None);
    let mut found = Vec::new();
    for read in reads {
        while let Some(fact) = facts.get(next).filter(|fact| fact.by.ended < read.by.begun) {
            if newest.is_none_or(|newest| newest.version < fact.version) {
                newest = Some(fact);
            }
            next += 1;
        }
        if let Some(known) = newest.filter(|known| known.version > read.version) {
            let what = format!(
                "{tenant}.{key}: a query says {}, although {} was told {:.1} ms before it began",
                read.version,
                known.version,
                (read.by.begun - known.by.ended) as f64 / 1e3
            );
            found.push(ChaosFinding::new("I-5", what, [known.by, read.by]));
        }
    }
    found
}

/// Returns what tells a version that SQL does not have, or one whose command was sent later.
fn of_the_future(
    tenant: &str,
    key: &str,
    told: &Key<'_>,
    evidence: &Evidence,
) -> Vec<ChaosFinding> {
    if key.contains('#') || key.starts_with("lock.") || key.starts_with("turn.") {
        return Vec::new();
    }
    let committed = evidence.version(tenant, key);
    let sent = |version: u64| -> Option<Micros> {
        evidence.sent.get(&(tenant.to_owned(), evidence.command_of(tenant, key, version)?)).copied()
    };
    let finding = |told: &ObservedVersion<'_>| {
        let ObservedVersion { version, by } = told;
        if *version > committed {
            let what = format!("{tenant}.{key}: {version} was told, and SQL has {committed}");
            return Some(ChaosFinding::new("I-1", what, [*by]));
        }
        let sent = sent(*version).filter(|sent| *sent > by.ended)?;
        let what = format!("{tenant}.{key}: {version} was told before it was sent (at {sent} µs)");
        Some(ChaosFinding::new("I-5", what, [*by]))
    };
    told.facts.iter().filter_map(finding).collect()
}

/// Returns the pushes and streamed events whose version is lower than an earlier one of the same
/// key to the same client.
fn goes_down(operations: &[Operation]) -> Vec<ChaosFinding> {
    let mut last: HashMap<(u32, &str, &str), (u64, &Operation)> = HashMap::new();
    let mut found = Vec::new();
    let pushed = operations.iter().filter(|by| matches!(by.way, Way::Push | Way::Stream));
    for by in pushed {
        let OperationResult::Versions { of, .. } = &by.answer else { continue };
        for (key, version) in of {
            let place = (by.client, &*by.tenant, key.as_str());
            if let Some((before, earlier)) = last.get(&place).filter(|(before, _)| before > version)
            {
                let what = format!("{}.{key}: pushed {version} after {before}", by.tenant);
                found.push(ChaosFinding::new("I-6", what, [*earlier, by]));
            }
            last.insert(place, (*version, by));
        }
    }
    found
}

/// Returns the lists without an order that was placed before the list was asked for, and that
/// nobody had tried to end by its answer.
fn missing_in_lists(operations: &[Operation]) -> Vec<ChaosFinding> {
    let mut placed: Vec<&Operation> = Vec::new();
    let mut ending: HashMap<(&str, &str), Micros> = HashMap::new();
    for by in operations {
        let is_ended = matches!(&*by.verb, "complete" | "cancel");
        if is_ended && by.key.starts_with("order.") && by.command_id.is_some() {
            let first = ending.entry((&by.tenant, &by.key)).or_insert(by.begun);
            *first = by.begun.min(*first);
        }
        if &*by.verb == "place" && by.outcome().is_some_and(|outcome| outcome.status < 300) {
            placed.push(by);
        }
    }
    let until = |by: &&Operation| ending.get(&(&*by.tenant, &*by.key)).copied();
    let placed = placed.into_iter().map(|by| (by, until(&by).unwrap_or(Micros::MAX)));
    let placed: Vec<(&Operation, Micros)> = placed.collect();
    let mut found = Vec::new();
    for list in operations.iter().filter(|by| by.way == Way::List) {
        let OperationResult::Versions { status: 200, of } = &list.answer else { continue };
        let rows: HashSet<&str> = of.iter().map(|(key, _)| key.as_str()).collect();
        let is_known = |by: &Operation| by.ended < list.begun && by.tenant == list.tenant;
        for (by, _) in placed.iter().filter(|(by, until)| *until > list.ended && is_known(by)) {
            let row = format!("{}#core", by.key);
            if !rows.contains(row.as_str()) {
                let what = format!("{}.{} is not in the list", by.tenant, by.key);
                found.push(ChaosFinding::new("I-5", what, [*by, list]));
            }
        }
    }
    found
}
