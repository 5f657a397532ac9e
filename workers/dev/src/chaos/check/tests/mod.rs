//! Each checker finds its violation, and nothing in a history without one.

mod failovers;
mod letters;
mod locks;
mod money;
mod outcomes;
mod reads;

use super::{evidence::CommittedEvent, *};
use crate::chaos::history::{KeyVersion, Micros, OperationResult, ReportedOutcome, Way};

/// An operation of client 1 of the tenant t1.
fn operation(
    way: Way,
    key: &str,
    begun: Micros,
    ended: Micros,
    answer: OperationResult,
) -> Operation {
    Operation {
        client: 1,
        way,
        tenant: "t1".into(),
        key: key.into(),
        verb: "set_item".into(),
        command_id: None,
        token: None,
        begun,
        ended,
        answer,
    }
}

fn read(key: &str, begun: Micros, ended: Micros, version: u64) -> Operation {
    let of = vec![KeyVersion::new(key, version.into())];
    let answer = OperationResult::Versions { status: 200, of };
    operation(Way::View, key, begun, ended, answer)
}

fn outcome(status: u16, version: u64, effects: &[&str]) -> ReportedOutcome {
    ReportedOutcome {
        status,
        code: if status < 300 { "ok" } else { "refused" }.to_owned(),
        version: Some(version),
        effects: effects.iter().map(|effect| (*effect).to_owned()).collect(),
        ..ReportedOutcome::default()
    }
}

/// A command `id` of the cart c1.
fn command(id: &str, begun: Micros, ended: Micros, answer: OperationResult) -> Operation {
    let command_id = Some(id.into());
    Operation { command_id, ..operation(Way::Request, "cart.c1", begun, ended, answer) }
}

fn done(id: &str, begun: Micros, ended: Micros, version: u64) -> Operation {
    let effect = format!("cart.c1@{version}");
    command(id, begun, ended, OperationResult::Final(outcome(200, version, &[&effect])))
}

/// SQL in which each of these commands made the next version of the cart c1.
fn committed(ids: &[&str], operations: &[Operation]) -> Evidence {
    let mut evidence = Evidence::default();
    for (id, version) in ids.iter().zip(1..) {
        let address = "cart.c1".to_owned();
        let name = "item_added".to_owned();
        evidence.add_event("t1", id, CommittedEvent { address, version, name, at: 0 });
        let effect = format!("cart.c1@{version}");
        let stored = outcome(200, version, &[&effect]);
        evidence.inbox.insert(("t1".to_owned(), (*id).to_owned()), stored);
    }
    operations.iter().for_each(|operation| evidence.see(operation));
    evidence
}

fn invariants(findings: &[ChaosFinding]) -> Vec<&str> {
    findings.iter().map(|finding| finding.invariant.as_str()).collect()
}
