//! Tables, and turns: a turn is one party at one table.
//!
//! ```text
//! (nothing) ─ register ─► available ◄─── set_status ───► reserved ◄─ set_status ─► out_of_service
//!                          │  ▲                             │
//!                open_turn │  │ close_turn, set_status,     │ open_turn
//!                          ▼  │ or the one rule             │
//!                        occupied ◄─────────────────────────┘
//! ```
//!
//! A table is occupied exactly as long as it has an open turn. An order is *unpaid* if it is
//! neither paid nor cancelled. The one rule (`close_paid`): when a turn has orders and none of them
//! is unpaid, it is closed and its table is available, in the same transaction.
//!
//! The row of a table and those of its turns may have been damaged by something that is not
//! brigade. What a table shows is what its row says; `reconcile` makes it what its turn and their
//! orders say.

mod bill;
mod change;
mod close_paid;
mod reconcile;
mod seat;
mod status;
mod turn;

use brigade_contracts::{
    Address,
    event::TABLE_REGISTERED,
    table::{Register, Status, Verb},
};

pub(crate) use self::{close_paid::close_paid_turns, seat::seat};
use crate::{
    changes::Fact,
    head::Head,
    outcome::{Done, Result},
    refusal::already_exists,
    state::Table,
    unit_of_work::UnitOfWork,
};

pub(crate) fn decide(work: &mut UnitOfWork<'_>, address: &Address, verb: &Verb) -> Result<Done> {
    match verb {
        Verb::Register(verb) => register(work, address, verb),
        Verb::OpenTurn(verb) => turn::open(work, address, verb),
        Verb::CloseTurn(verb) => turn::close(work, address, &verb.turn_id),
        Verb::SetStatus(verb) => status::set(work, address, verb),
        Verb::Reconcile(verb) => reconcile::reconcile(work, address, verb),
    }
}

fn register(work: &mut UnitOfWork<'_>, address: &Address, register: &Register) -> Result<Done> {
    if work.find::<Table>(address)?.is_some() {
        return Err(already_exists().into());
    }
    let table = work.create(Table {
        head: Head::unborn(address.clone(), work.now),
        label: register.label.clone(),
        seats: register.seats,
        status: Status::Available,
        open_turn_id: None,
        turn: None,
    });
    work.record(table, Fact::new(TABLE_REGISTERED, register));
    Ok(Done::created())
}

#[cfg(test)]
mod tests;
