use brigade_contracts::{
    MAX_NAME, Quantity, Text, Timestamp, Token,
    table::{CloseReason, Core, OpenTurnShown, Status},
};
use serde_json::value::RawValue;

use crate::{head::Head, json::raw};

/// A table as SQL keeps it.
#[derive(Clone, Debug, PartialEq)]
pub struct Table {
    pub head: Head,
    pub label: Text<MAX_NAME>,
    pub seats: Quantity,
    pub status: Status,
    /// The id of its open turn, by the row of the table.
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

impl Table {
    /// Returns the turn that is open by both its own row and the table's.
    #[must_use]
    pub fn open_turn(&self) -> Option<&Turn> {
        let open = self.turn.as_ref().filter(|turn| turn.is_open());
        open.filter(|turn| self.open_turn_id.as_ref() == Some(&turn.id))
    }

    /// Returns the part `core`.
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
}
