//! The staff sets the status of a table.

use brigade_contracts::{
    Address, Refusal, Token,
    event::TABLE_STATUS_CHANGED,
    table::{CloseReason, SetStatus, Status},
};
use serde_json::json;

use super::{
    bill::bill,
    change::{change, close_turn, no_open_turn, turn_open, unpaid_order},
};
use crate::{
    outcome::{Done, Result},
    state::{Table, Turn},
    unit_of_work::{Handle, UnitOfWork},
};

pub(super) fn set(work: &mut UnitOfWork<'_>, address: &Address, set: &SetStatus) -> Result<Done> {
    let table = work.existing::<Table>(address)?;
    let force = set.force.unwrap_or_default();
    let reason = set.reason.as_ref().map(|reason| reason.as_str().trim());
    if force && reason.is_none_or(str::is_empty) {
        let message = "say why it is forced";
        return Err(Refusal::new(422, "reason_required", message).into());
    }
    let present = &work[table];
    match set.status {
        Status::Available => return make_available(work, table, set, force),
        Status::Occupied if present.open_turn().is_none() => return Err(no_open_turn().into()),
        Status::Reserved | Status::OutOfService
            if present.turn.as_ref().is_some_and(Turn::is_open) =>
        {
            return Err(turn_open().into());
        }
        _ => {}
    }
    let from = present.status;
    if from != set.status {
        record(work, table, from, set, &[], None);
    }
    Ok(Done::ok())
}

/// Closes the open turn. A latest turn that was closed with something unpaid counts as one that is
/// open, unless it was closed by force.
fn make_available(
    work: &mut UnitOfWork<'_>,
    table: Handle<Table>,
    set: &SetStatus,
    force: bool,
) -> Result<Done> {
    let from = work[table].status;
    let counts = |turn: &Turn| turn.close_reason != Some(CloseReason::Forced);
    let turn = work[table].turn.clone().filter(counts);
    let unpaid = match turn {
        Some(_) => bill(work, table)?.unpaid,
        None => Vec::new(),
    };
    if !unpaid.is_empty() && !force {
        return Err(unpaid_order().into());
    }
    let forced = !unpaid.is_empty();
    let reason = if forced { CloseReason::Forced } else { CloseReason::Manual };
    let mut amended = None;
    match turn {
        Some(turn) if turn.is_open() => close_turn(work, table, turn, reason),
        Some(turn) if forced => amended = Some(Turn { close_reason: Some(reason), ..turn }),
        _ => {}
    }
    if from != Status::Available || forced {
        record(work, table, from, set, &unpaid, amended);
    }
    Ok(Done::ok())
}

/// Changes the status, and keeps with the event who forced it.
fn record(
    work: &mut UnitOfWork<'_>,
    table: Handle<Table>,
    from: Status,
    set: &SetStatus,
    unpaid: &[Token],
    turn: Option<Turn>,
) {
    let data = json!({
        "from": from, "status": set.status, "forced": !unpaid.is_empty(), "reason": set.reason,
        "unpaid": unpaid, "actor": work.command.actor,
    });
    change(work, table, set.status, turn, TABLE_STATUS_CHANGED, &data);
}
