//! What the staff says of a table.

use brigade_contracts::{
    Refusal,
    event::TABLE_STATUS_CHANGED,
    table::{CloseReason, SetStatus, Status},
};
use serde_json::json;

use super::{
    super::draft::{Done, Draft, Result},
    Table, Turn, no_open_turn, turn_open, unpaid_order,
};

pub(super) fn set(draft: &mut Draft<'_>, table: Table, said: &SetStatus) -> Result<Done> {
    let force = said.force.unwrap_or_default();
    let reason = said.reason.as_ref().map(|reason| reason.as_str().trim());
    if force && reason.is_none_or(str::is_empty) {
        let message = "say why it is forced";
        return Err(Refusal::new(422, "reason_required", message).into());
    }
    match said.status {
        Status::Available => return make_available(draft, table, said, force),
        Status::Occupied if table.open_turn().is_none() => return Err(no_open_turn().into()),
        Status::Reserved | Status::OutOfService
            if table.turn.as_ref().is_some_and(Turn::is_open) =>
        {
            return Err(turn_open().into());
        }
        _ => {}
    }
    if table.status != said.status {
        tell(draft, table.status, table, said, &[], None);
    }
    Ok(Done::ok())
}

/// Closes the open turn. A latest turn that was closed with something unpaid counts as one that is
/// open, unless it was closed by force.
fn make_available(
    draft: &mut Draft<'_>,
    mut table: Table,
    said: &SetStatus,
    force: bool,
) -> Result<Done> {
    let from = table.status;
    let counts = |turn: &Turn| turn.close_reason != Some(CloseReason::Forced);
    let turn = table.turn.clone().filter(counts);
    let unpaid = match turn {
        Some(_) => draft.bill(&table)?.unpaid,
        None => Vec::new(),
    };
    if !unpaid.is_empty() && !force {
        return Err(unpaid_order().into());
    }
    let forced = !unpaid.is_empty();
    let reason = if forced { CloseReason::Forced } else { CloseReason::Manual };
    let mut amended = None;
    match turn {
        Some(turn) if turn.is_open() => table = draft.close_turn(table, turn, reason),
        Some(turn) if forced => amended = Some(Turn { close_reason: Some(reason), ..turn }),
        _ => {}
    }
    if from != Status::Available || forced {
        tell(draft, from, table, said, &unpaid, amended);
    }
    Ok(Done::ok())
}

/// Who forced what is kept with the event.
fn tell(
    draft: &mut Draft<'_>,
    from: Status,
    table: Table,
    said: &SetStatus,
    unpaid: &[brigade_contracts::Token],
    turn: Option<Turn>,
) {
    let data = json!({
        "from": from, "status": said.status, "forced": !unpaid.is_empty(), "reason": said.reason,
        "unpaid": unpaid, "actor": draft.command.actor,
    });
    draft.change_table(table, said.status, turn, TABLE_STATUS_CHANGED, &data);
}
