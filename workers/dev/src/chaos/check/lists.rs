//! I-5 of lists: every order is in them.

use std::collections::{HashMap, HashSet};

use super::{ChaosFinding, Evidence, reads::parse};
use crate::chaos::history::{Micros, Operation, OperationResult, Way};

/// Returns the lists without an order that was known to be there before the list was asked for, and
/// that nobody had tried to end by its answer.
pub fn incomplete(operations: &[Operation], evidence: &Evidence) -> Vec<ChaosFinding> {
    let mut told: HashMap<(&str, &str), &Operation> = HashMap::new();
    let mut ending: HashMap<(&str, &str), Micros> = HashMap::new();
    for by in operations {
        if ends(by) && by.command_id.is_some() {
            let first = ending.entry((&by.tenant, &by.key)).or_insert(by.begun);
            *first = by.begun.min(*first);
        }
        for order in orders_told(by) {
            let first = told.entry((&by.tenant, order)).or_insert(by);
            if by.ended < first.ended {
                *first = by;
            }
        }
    }
    let until = |order: &(&str, &str), by: &Operation| {
        // One that a failover lost was there until then.
        let lost = evidence.eras.end_of(by).filter(|_| evidence.is_lost(by));
        ending.get(order).copied().into_iter().chain(lost).min().unwrap_or(Micros::MAX)
    };
    let told = told.into_iter().map(|(order, by)| (order, by, until(&order, by)));
    let told: Vec<((&str, &str), &Operation, Micros)> = told.collect();
    let mut found = Vec::new();
    for list in operations.iter().filter(|by| by.way == Way::List) {
        let OperationResult::Versions { status: 200, of } = &list.answer else { continue };
        let rows: HashSet<&str> =
            of.iter().filter_map(|row| row.key.strip_suffix("#core")).collect();
        for ((tenant, order), by, until) in &told {
            let is_owed = *tenant == &*list.tenant && by.ended < list.begun && *until > list.ended;
            if is_owed && !rows.contains(order) {
                let what = format!("{tenant}.{order} is not in the list");
                found.push(ChaosFinding::new("I-5", what, [*by, list]));
            }
        }
    }
    found
}

fn ends(by: &Operation) -> bool {
    matches!(&*by.verb, "complete" | "cancel") && by.key.starts_with("order.")
}

/// Returns the orders that an outcome tells of: its own, and those that it made or changed, as a
/// check-out and a capture do.
fn orders_told(by: &Operation) -> impl Iterator<Item = &str> {
    let outcome = by.outcome().filter(|outcome| outcome.status < 300 && !ends(by));
    let effects = outcome.into_iter().flat_map(|outcome| &outcome.effects);
    let effects = effects.filter_map(|effect| Some(parse(effect)?.0));
    effects.chain(outcome.map(|_| &*by.key)).filter(|key| key.starts_with("order."))
}
