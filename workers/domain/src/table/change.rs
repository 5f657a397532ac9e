//! Changes of a table's status and turn, for all reasons.

use brigade_contracts::{
    Refusal, Timestamp,
    event::{EventKind, TABLE_TURN_CLOSED},
    table::{CloseReason, Status},
};
use serde::Serialize;
use serde_json::json;

use crate::{
    changes::Fact,
    state::{Table, Turn},
    unit_of_work::{Handle, UnitOfWork},
};

impl Turn {
    pub(super) fn closed(self, now: Timestamp, reason: CloseReason) -> Self {
        Self { closed_at: Some(now), close_reason: Some(reason), ..self }
    }

    pub(super) fn reopened(self) -> Self {
        Self { closed_at: None, close_reason: None, ..self }
    }
}

/// Changes the status of a table, and its turn if one is given. Nothing else changes either: the
/// pointer to the open turn follows the turn.
pub(super) fn change(
    work: &mut UnitOfWork<'_>,
    table: Handle<Table>,
    status: Status,
    turn: Option<Turn>,
    kind: EventKind,
    data: &impl Serialize,
) {
    let now = work.now;
    let changed = &mut work[table];
    changed.status = status;
    let turn = turn.map(|turn| Turn { version: turn.version + 1, at: now, ..turn });
    if turn.is_some() {
        changed.turn.clone_from(&turn);
    }
    let open = changed.turn.as_ref().filter(|turn| turn.is_open());
    changed.open_turn_id = open.map(|turn| turn.id.clone());
    if let Some(turn) = turn {
        work.record_turn(table, turn);
    }
    work.record(table, Fact::new(kind, data));
}

pub(super) fn close_turn(
    work: &mut UnitOfWork<'_>,
    table: Handle<Table>,
    turn: Turn,
    reason: CloseReason,
) {
    let data = json!({ "turn_id": turn.id, "close_reason": reason });
    let turn = turn.closed(work.now, reason);
    change(work, table, Status::Available, Some(turn), TABLE_TURN_CLOSED, &data);
}

pub(super) fn unpaid_order() -> Refusal {
    Refusal::new(409, "unpaid_order", "an order of this turn is neither paid nor cancelled")
}

pub(super) fn turn_open() -> Refusal {
    Refusal::new(409, "turn_open", "a party sits at this table")
}

pub(super) fn no_open_turn() -> Refusal {
    Refusal::new(409, "no_open_turn", "no party sits at this table: open a turn first")
}
