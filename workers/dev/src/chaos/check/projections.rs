//! I-4 while the load goes on: KV is not behind what was answered.

use std::collections::HashMap;

use super::{ChaosFinding, Evidence};
use crate::chaos::{
    history::{Micros, Operation, OperationResult, Way},
    nemesis::Blow,
};

/// An outcome is sent when its projection was written, or could not be within a second. So for this
/// long after a recovery nothing is expected of KV.
const CALM: Micros = 10_000_000;

/// Returns the counters in KV that are older than an outcome that was answered before, although
/// nothing was broken.
pub fn late(operations: &[Operation], evidence: &Evidence, blows: &[Blow]) -> Vec<ChaosFinding> {
    let is_calm = |by: &Operation| {
        blows.iter().all(|blow| by.ended < blow.struck || by.begun > blow.over + CALM)
    };
    let mut answered: HashMap<(&str, &str), Vec<&Operation>> = HashMap::new();
    // A query of an outcome is answered as soon as it is committed.
    let is_sent = |by: &&Operation| matches!(by.way, Way::Request | Way::Http);
    let is_done = |by: &&Operation| {
        by.outcome().is_some_and(|outcome| outcome.status < 300) && !evidence.is_lost(by)
    };
    for by in operations.iter().filter(is_sent).filter(is_done) {
        answered.entry((&by.tenant, &by.key)).or_default().push(by);
    }
    let version = |by: &Operation| Some(evidence.era_of(by)?.at(by.outcome()?.version?));
    let mut found = Vec::new();
    for read in operations.iter().filter(|by| by.way == Way::Kv && is_calm(by)) {
        let OperationResult::Versions { of, .. } = &read.answer else { continue };
        let known = answered.get(&(&*read.tenant, &*read.key)).into_iter().flatten();
        let known = known.filter(|by| by.ended < read.begun && is_calm(by));
        let newest = known.max_by_key(|by| version(by));
        let there = of.first().map(|there| there.era.unwrap_or_default().at(there.version));
        if let Some(newest) = newest
            && version(newest) > there
        {
            let what = format!("{}.{} was answered before it was in KV", read.tenant, read.key);
            found.push(ChaosFinding::new("I-4", what, [*newest, read]));
        }
    }
    found
}
