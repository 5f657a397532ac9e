//! I-5 and I-6: no answer is older than what was known before it was asked for, none is of the
//! future, and nobody sees a version go down.
//!
//! The versions of an aggregate are numbered by their commits, so this is exactly linearizability
//! of reads and writes of each key: an order exists if and only if no operation that had ended
//! before another one began has the higher version. No search is needed for that.
//!
//! Versions count within an era. What is told of an earlier era is older than all of a later one,
//! and no answer to a query that was sent after a failover is of the era before it. Of what an
//! earlier era had, a later one has at least what SQL kept.

use std::collections::{BTreeMap, HashMap};

use brigade_contracts::{Era, EraVersion};

use super::{ChaosFinding, Eras, Evidence, lists, projections};
use crate::chaos::{
    history::{KeyVersion, Micros, Operation, OperationResult, Way},
    nemesis::Blow,
    watch::TOLD_ANEW,
};

/// A version of a key, as an operation told it.
struct ObservedVersion<'a> {
    version: EraVersion,
    by: &'a Operation,
}

/// The observations of one key.
#[derive(Default)]
struct Key<'a> {
    /// Everything that says that this version was there when it ended.
    facts: Vec<ObservedVersion<'a>>,
    /// The answers that must not be older than these.
    reads: Vec<ObservedVersion<'a>>,
}

/// Keys by tenant and `<aggregate>.<id>`; of lists `<aggregate>.<id>#core`.
type Keys<'a> = HashMap<(&'a str, String), Key<'a>>;

/// Returns what is stale, of the future, or goes down.
#[must_use]
pub fn check(operations: &[Operation], evidence: &Evidence, blows: &[Blow]) -> Vec<ChaosFinding> {
    let keys = keys(operations, evidence);
    let mut found = Vec::new();
    if !evidence.eras.agree() {
        let what = format!("C-10: {:?}", evidence.eras);
        found.push(ChaosFinding::new("I-5", what, []));
    }
    for ((tenant, key), told) in keys {
        found.extend(stale(tenant, &key, &told, evidence));
        found.extend(of_the_future(tenant, &key, &told, evidence));
    }
    found.extend(goes_down(operations, &evidence.eras));
    found.extend(lists::incomplete(operations, evidence));
    found.extend(projections::late(operations, evidence, blows));
    found
}

fn keys<'a>(operations: &'a [Operation], evidence: &Evidence) -> Keys<'a> {
    let mut keys: Keys<'_> = HashMap::new();
    for by in operations {
        match &by.answer {
            OperationResult::Final(outcome) => {
                let Some(era) = evidence.era_of(by) else { continue };
                let mut fact = |key: String, version: u64| {
                    let version = era.at(version);
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
                for seen in of {
                    // What may be of either of two eras says nothing.
                    let Some(era) = evidence.eras.of(by, seen) else { continue };
                    let version = era.at(seen.version);
                    let told = keys.entry((&by.tenant, seen.key.clone())).or_default();
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
fn stale(tenant: &str, key: &str, told: &Key<'_>, evidence: &Evidence) -> Vec<ChaosFinding> {
    let mut facts: Vec<_> = told.facts.iter().collect();
    let mut reads: Vec<_> = told.reads.iter().collect();
    facts.sort_by_key(|told| told.by.ended);
    reads.sort_by_key(|told| told.by.begun);
    // The newest of each era.
    let (mut next, mut newest) = (0, BTreeMap::<Era, &ObservedVersion<'_>>::new());
    let mut found = Vec::new();
    for read in reads {
        while let Some(fact) = facts.get(next).filter(|fact| fact.by.ended < read.by.begun) {
            let newest = newest.entry(fact.version.era).or_insert(fact);
            if newest.version < fact.version {
                *newest = fact;
            }
            next += 1;
        }
        let present = evidence.eras.at(read.by.begun);
        if read.version.era < present {
            let what = format!("{tenant}.{key}: a query says {}, in {present}", read.version);
            found.push(ChaosFinding::new("I-5", what, [read.by]));
            continue;
        }
        let kept = evidence.version_before(tenant, key, read.version.era);
        let is_newer = |known: &&&ObservedVersion<'_>| match known.version.era {
            era if era < read.version.era => known.version.version.min(kept) > read.version.version,
            _ => known.version > read.version,
        };
        if let Some(known) = newest.values().rev().find(is_newer) {
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
    let sent = |version: u64| -> Option<Micros> {
        evidence.sent.get(&(tenant.to_owned(), evidence.command_of(tenant, key, version)?)).copied()
    };
    let finding = |told: &ObservedVersion<'_>| {
        let ObservedVersion { version: EraVersion { era, version }, by } = told;
        // What the era had when it ended, as far as it was kept.
        let committed = match evidence.eras.after(*era) {
            Some(next) => evidence.version_before(tenant, key, next),
            None => evidence.version(tenant, key),
        };
        if *version > committed {
            if evidence.eras.may_be_lost(by) {
                return None;
            }
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
/// key to the same client. What is told anew after a failover is no lower.
fn goes_down(operations: &[Operation], eras: &Eras) -> Vec<ChaosFinding> {
    let mut last: HashMap<(u32, &str, &str), (EraVersion, &Operation)> = HashMap::new();
    let mut told_of: HashMap<u32, Era> = HashMap::new();
    let mut found = Vec::new();
    let pushed = operations.iter().filter(|by| matches!(by.way, Way::Push | Way::Stream));
    for by in pushed {
        let OperationResult::Versions { of, .. } = &by.answer else { continue };
        let known = told_of.entry(by.client).or_default();
        if &*by.verb == TOLD_ANEW {
            *known = eras.at(by.ended);
        }
        for KeyVersion { key, era, version } in of {
            let version = era.unwrap_or(*known).at(*version);
            let place = (by.client, &*by.tenant, key.as_str());
            if let Some((before, earlier)) =
                last.get(&place).filter(|(before, _)| *before > version)
            {
                let what = format!("{}.{key}: pushed {version} after {before}", by.tenant);
                found.push(ChaosFinding::new("I-6", what, [*earlier, by]));
            }
            last.insert(place, (version, by));
        }
    }
    found
}
