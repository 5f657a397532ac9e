//! A table is made consistent with its turn and their orders.

use brigade_contracts::{
    Address, Refusal, Timestamp,
    event::TABLE_RECONCILED,
    table::{CloseReason, Finding, Reconcile, Status},
};
use serde_json::json;

use super::{
    bill::{Bill, bill},
    change::change,
};
use crate::{
    outcome::{Done, Result},
    state::{Table, Turn},
    unit_of_work::UnitOfWork,
};

pub(super) fn reconcile(
    work: &mut UnitOfWork<'_>,
    address: &Address,
    verb: &Reconcile,
) -> Result<Done> {
    let table = work.existing::<Table>(address)?;
    if verb.expected_version != work[table].head.version {
        let message = "the table has changed since it was looked at";
        return Err(Refusal::new(412, "version_mismatch", message).into());
    }
    let bill = bill(work, table)?;
    let present = &work[table];
    if !present.has(verb.finding, &bill) {
        return Err(Refusal::new(409, "not_found_so", "this does not hold of the table").into());
    }
    let (status, turn) = present.derived(&bill, work.now);
    let data = json!({
        "finding": verb.finding, "evidence": verb.evidence, "cause": cause(verb.finding),
        "from": present.status, "status": status,
        "turn_id": present.turn.as_ref().map(|turn| &turn.id),
    });
    change(work, table, status, turn, TABLE_RECONCILED, &data);
    Ok(Done::ok())
}

fn cause(finding: Finding) -> &'static str {
    match finding {
        Finding::GhostNoTurn => "the table is occupied without an open turn",
        Finding::GhostAllPaid => "the open turn has orders, and none of them is unpaid",
        Finding::PhantomOpenTurn => "the table is available with an open turn",
        Finding::PhantomUnpaid => "the table is available with an unpaid order of its latest turn",
    }
}

impl Table {
    /// Returns whether a finding holds by its definition.
    fn has(&self, finding: Finding, bill: &Bill) -> bool {
        let available = self.status == Status::Available;
        match finding {
            Finding::GhostNoTurn => self.status == Status::Occupied && self.open_turn().is_none(),
            Finding::GhostAllPaid => self.open_turn().is_some() && bill.is_settled(),
            Finding::PhantomOpenTurn => {
                let open = self.turn.as_ref().is_some_and(Turn::is_open);
                available && (open || self.open_turn_id.is_some())
            }
            Finding::PhantomUnpaid => available && self.left_unpaid(bill),
        }
    }

    fn left_unpaid(&self, bill: &Bill) -> bool {
        let left = |turn: &Turn| !turn.is_open() && turn.close_reason != Some(CloseReason::Forced);
        self.turn.as_ref().is_some_and(left) && !bill.unpaid.is_empty()
    }

    /// Returns the status, and the turn if it changes, by which no finding holds any more.
    fn derived(&self, bill: &Bill, now: Timestamp) -> (Status, Option<Turn>) {
        match &self.turn {
            Some(turn) if turn.is_open() && bill.is_settled() => {
                (Status::Available, Some(turn.clone().closed(now, CloseReason::Reconciled)))
            }
            Some(turn) if turn.is_open() => (Status::Occupied, None),
            // The party that owes this still sits there, as far as anybody knows.
            Some(turn) if self.left_unpaid(bill) => {
                (Status::Occupied, Some(turn.clone().reopened()))
            }
            _ if self.status == Status::Occupied => (Status::Available, None),
            _ => (self.status, None),
        }
    }
}
