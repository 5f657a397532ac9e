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
//! A table is occupied exactly as long as it has an open turn. An order is *unpaid* if it is neither
//! paid nor cancelled. The one rule (`turn::settle`): when a turn has orders and none of them is
//! unpaid, it is closed and its table is available, in the same transaction.
//!
//! The row of a table and those of its turns may have been damaged by something that is not
//! brigade. What a table shows is what its row says; `reconcile` makes it what its turn and their
//! orders say.

mod reconcile;
mod status;
mod turn;

use brigade_contracts::{
    Address, MAX_NAME, Quantity, Refusal, Text, Timestamp, Token,
    event::{self, TABLE_REGISTERED},
    table::{CloseReason, Core, OpenTurnShown, Register, Status, Verb},
};
use serde::Serialize;
use serde_json::value::RawValue;

use super::{
    Head, already_exists,
    draft::{Done, Draft, Result},
    not_found, raw,
};

pub(super) use self::turn::{seat, settle};

/// A table as SQL keeps it.
#[derive(Clone, Debug, PartialEq)]
pub struct Table {
    pub head: Head,
    pub label: Text<MAX_NAME>,
    pub seats: Quantity,
    pub status: Status,
    /// As the row says: the id of its open turn.
    pub open_turn_id: Option<Token>,
    /// The open turn; where there is none, the latest one.
    pub turn: Option<Turn>,
}

/// A party at a table, as SQL keeps it.
#[derive(Clone, Debug, PartialEq)]
pub struct Turn {
    pub id: Token,
    pub version: u64,
    pub at: Timestamp,
    pub party_size: Option<Quantity>,
    pub opened_at: Timestamp,
    pub closed_at: Option<Timestamp>,
    pub close_reason: Option<CloseReason>,
}

pub(super) fn decide(draft: &mut Draft<'_>, address: &Address, verb: &Verb) -> Result<Done> {
    let table = draft.table(address)?;
    if let Verb::Register(said) = verb {
        return match table {
            None => Ok(register(draft, address, said)),
            Some(_) => Err(already_exists().into()),
        };
    }
    let table = table.ok_or_else(not_found)?;
    match verb {
        Verb::Register(_) => unreachable!("decided above"),
        Verb::OpenTurn(said) => turn::open(draft, table, said),
        Verb::CloseTurn(said) => turn::close(draft, table, &said.turn_id),
        Verb::SetStatus(said) => status::set(draft, table, said),
        Verb::Reconcile(said) => reconcile::reconcile(draft, table, said),
    }
}

fn register(draft: &mut Draft<'_>, address: &Address, said: &Register) -> Done {
    let table = Table {
        head: Head::unborn(address.clone(), draft.now),
        label: said.label.clone(),
        seats: said.seats,
        status: Status::Available,
        open_turn_id: None,
        turn: None,
    };
    draft.record(table, TABLE_REGISTERED, said);
    Done::created()
}

impl Table {
    /// The turn that both the table and the turn say is open.
    #[must_use]
    pub fn open_turn(&self) -> Option<&Turn> {
        let open = self.turn.as_ref().filter(|turn| turn.is_open());
        open.filter(|turn| self.open_turn_id.as_ref() == Some(&turn.id))
    }

    /// The part `core`.
    pub(super) fn core(&self) -> Box<RawValue> {
        raw(&Core {
            version: self.head.version,
            at: self.head.at,
            label: self.label.clone(),
            seats: self.seats,
            status: self.status,
            open_turn: self.open_turn().map(|turn| OpenTurnShown {
                id: turn.id.clone(),
                party_size: turn.party_size,
                opened_at: turn.opened_at,
            }),
        })
    }
}

impl Turn {
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.closed_at.is_none()
    }

    fn closed(self, now: Timestamp, reason: CloseReason) -> Self {
        Self { closed_at: Some(now), close_reason: Some(reason), ..self }
    }

    fn reopened(self) -> Self {
        Self { closed_at: None, close_reason: None, ..self }
    }
}

impl Draft<'_> {
    /// The only place where the status of a table, or its turn, changes: the pointer to the open
    /// turn follows the turn.
    fn change_table(
        &mut self,
        mut table: Table,
        status: Status,
        turn: Option<Turn>,
        kind: event::Kind,
        data: &impl Serialize,
    ) -> Table {
        table.status = status;
        if let Some(mut turn) = turn {
            turn.version += 1;
            turn.at = self.now;
            self.note_turn(&table.head.address, turn.clone());
            table.turn = Some(turn);
        }
        let open = table.turn.as_ref().filter(|turn| turn.is_open());
        table.open_turn_id = open.map(|turn| turn.id.clone());
        let address = table.head.address.clone();
        self.record(table.clone(), kind, data);
        let changed = self.changes.states.get(&address).and_then(super::State::table);
        changed.cloned().unwrap_or(table)
    }
}

fn unpaid_order() -> Refusal {
    Refusal::new(409, "unpaid_order", "an order of this turn is neither paid nor cancelled")
}

fn turn_open() -> Refusal {
    Refusal::new(409, "turn_open", "a party sits at this table")
}

fn no_open_turn() -> Refusal {
    Refusal::new(409, "no_open_turn", "no party sits at this table: open a turn first")
}

#[cfg(test)]
mod tests;
