//! I-5 of lists: every order is in them.

use std::collections::{HashMap, HashSet};

use super::{ChaosFinding, Evidence};
use crate::chaos::history::{Micros, Operation, OperationResult, Way};

/// Returns the lists without an order that was placed before the list was asked for, and that
/// nobody had tried to end by its answer.
pub fn incomplete(operations: &[Operation], evidence: &Evidence) -> Vec<ChaosFinding> {
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
    let until = |by: &&Operation| {
        let ended = ending.get(&(&*by.tenant, &*by.key)).copied();
        // One that a failover lost was there until then.
        let lost = evidence.eras.end_of(by).filter(|_| evidence.is_lost(by));
        ended.into_iter().chain(lost).min()
    };
    let placed = placed.into_iter().map(|by| (by, until(&by).unwrap_or(Micros::MAX)));
    let placed: Vec<(&Operation, Micros)> = placed.collect();
    let mut found = Vec::new();
    for list in operations.iter().filter(|by| by.way == Way::List) {
        let OperationResult::Versions { status: 200, of } = &list.answer else { continue };
        let rows: HashSet<&str> = of.iter().map(|row| row.key.as_str()).collect();
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
