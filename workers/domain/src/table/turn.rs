//! Turns begin, and end by hand.

use brigade_contracts::{
    Address, Refusal, Token,
    event::TABLE_TURN_OPENED,
    table::{CloseReason, OpenTurn, Status},
};

use super::{
    bill::bill,
    change::{change, close_turn, turn_open, unpaid_order},
    seat::require_open,
};
use crate::{
    outcome::{Done, Result},
    state::{Table, Turn},
    unit_of_work::UnitOfWork,
};

pub(super) fn open(work: &mut UnitOfWork<'_>, address: &Address, open: &OpenTurn) -> Result<Done> {
    let table = work.existing::<Table>(address)?;
    if work[table].turn.as_ref().is_some_and(Turn::is_open) {
        return Err(turn_open().into());
    }
    if work[table].status == Status::OutOfService {
        let message = "the table is out of service: make it available first";
        return Err(Refusal::new(409, "out_of_service", message).into());
    }
    if work.table_of_turn(&open.turn_id)?.is_some() {
        return Err(Refusal::new(409, "turn_exists", "there was a turn of this id already").into());
    }
    let turn = Turn {
        id: open.turn_id.clone(),
        version: 0,
        at: work.now,
        party_size: open.party_size,
        opened_at: work.now,
        closed_at: None,
        close_reason: None,
    };
    change(work, table, Status::Occupied, Some(turn), TABLE_TURN_OPENED, open);
    Ok(Done::ok())
}

pub(super) fn close(work: &mut UnitOfWork<'_>, address: &Address, turn_id: &Token) -> Result<Done> {
    let table = work.existing::<Table>(address)?;
    let turn = require_open(work, table, turn_id)?.clone();
    if !bill(work, table)?.unpaid.is_empty() {
        return Err(unpaid_order().into());
    }
    close_turn(work, table, turn, CloseReason::Manual);
    Ok(Done::ok())
}
