//! Tables and the parties at them: what can be asked of them and what is shown of them.
//!
//! A turn is one party at one table. It is no aggregate: it is opened, closed and shown with its
//! table.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{MAX_NAME, MAX_NOTE, Quantity, Text, Timestamp, Token, verb::verbs};

verbs! {
    /// The verbs of a table.
    pub enum Verb {
        /// 201. Creates the table.
        "register" => Register(Register),
        /// A party sits down.
        "open_turn" => OpenTurn(OpenTurn),
        /// A party that owes nothing goes.
        "close_turn" => CloseTurn(CloseTurn),
        /// Sets the status that the staff reports.
        "set_status" => SetStatus(SetStatus),
        /// System. Repairs a row that is not what its turn and their orders say.
        "reconcile" => Reconcile(Reconcile),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "TableStatus")]
pub enum Status {
    Available,
    Reserved,
    OutOfService,
    /// It has an open turn.
    Occupied,
}

impl Status {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Available => "available",
            Self::Reserved => "reserved",
            Self::OutOfService => "out_of_service",
            Self::Occupied => "occupied",
        }
    }
}

/// The reason why a turn ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CloseReason {
    /// It has orders, and none of them is unpaid.
    Paid,
    /// Somebody said so, and nothing was unpaid.
    Manual,
    /// Somebody said so although something is unpaid.
    Forced,
    /// It should have been closed before.
    Reconciled,
}

impl CloseReason {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Paid => "paid",
            Self::Manual => "manual",
            Self::Forced => "forced",
            Self::Reconciled => "reconciled",
        }
    }
}

/// A fault of a table's row. An order is unpaid if it is neither paid nor cancelled.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Finding {
    /// `occupied` without an open turn.
    GhostNoTurn,
    /// Its open turn has orders, none of which is unpaid.
    GhostAllPaid,
    /// `available` with an open turn.
    PhantomOpenTurn,
    /// `available` with an unpaid order of its latest turn, which was not closed by force.
    PhantomUnpaid,
}

impl Finding {
    pub const ALL: [Self; 4] =
        [Self::GhostNoTurn, Self::GhostAllPaid, Self::PhantomOpenTurn, Self::PhantomUnpaid];

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::GhostNoTurn => "ghost_no_turn",
            Self::GhostAllPaid => "ghost_all_paid",
            Self::PhantomOpenTurn => "phantom_open_turn",
            Self::PhantomUnpaid => "phantom_unpaid",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Register {
    pub label: Text<MAX_NAME>,
    pub seats: Quantity,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OpenTurn {
    pub turn_id: Token,
    pub party_size: Option<Quantity>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CloseTurn {
    pub turn_id: Token,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SetStatus {
    pub status: Status,
    /// Makes the table available although something is unpaid; needs a reason.
    pub force: Option<bool>,
    pub reason: Option<Text<MAX_NOTE>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Reconcile {
    /// The version of the table when it was checked.
    pub expected_version: u64,
    pub finding: Finding,
    /// The rows that were found; kept with the event as they are.
    pub evidence: Value,
}

/// The part `core` of a table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Core {
    pub version: u64,
    pub at: Timestamp,
    pub label: Text<MAX_NAME>,
    pub seats: Quantity,
    pub status: Status,
    pub open_turn: Option<OpenTurnShown>,
}

/// The party that sits at a table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "OpenTurn")]
pub struct OpenTurnShown {
    pub id: Token,
    pub party_size: Option<Quantity>,
    pub opened_at: Timestamp,
}
