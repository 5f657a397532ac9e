//! Payments: what can be asked of them and what is shown of them.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    Currency, MAX_NAME, MAX_NOTE, Money, Text, Timestamp, Token,
    verb::{Reason, verbs},
};

verbs! {
    /// The verbs of a payment.
    pub enum Verb {
        /// 201. Begins to pay a cart, which it locks, or an order. Either keeps at most 50 payments
        /// that are open or have money in them (`too_many_payments`).
        "initiate" => Initiate(Initiate),
        /// Puts the gateway's real id on the payment and on the lock it is under.
        "bind_transaction" => BindTransaction(BindTransaction),
        /// Records the result that the gateway reports.
        "record_result" => RecordResult(RecordResult),
        /// The cash is in the till.
        "confirm_cash" => ConfirmCash(ConfirmCash),
        /// Ends a payment that has no result.
        "cancel" => Cancel(Reason),
        /// Money went back.
        "refund" => Refund(Refund),
        /// A person settles what no machine does: money that is owed has gone back by another way,
        /// or what became of a payment whose result is unknown.
        "settle" => Settle(Settle),
    }
}

#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    Card,
    Wallet,
    Qr,
    Cash,
}

impl Method {
    pub const ALL: [Self; 4] = [Self::Card, Self::Wallet, Self::Qr, Self::Cash];

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Card => "card",
            Self::Wallet => "wallet",
            Self::Qr => "qr",
            Self::Cash => "cash",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "PaymentStatus")]
pub enum Status {
    Initiated,
    /// The gateway does not know, or did not say.
    Unknown,
    Captured,
    Failed,
    Cancelled,
    /// Captured, but nothing of it could be applied: all of it is owed back.
    LateCaptured,
    Refunded,
}

impl Status {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Initiated => "initiated",
            Self::Unknown => "unknown",
            Self::Captured => "captured",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::LateCaptured => "late_captured",
            Self::Refunded => "refunded",
        }
    }

    /// Returns true if money may still be on its way.
    #[must_use]
    pub fn is_open(self) -> bool {
        matches!(self, Self::Initiated | Self::Unknown)
    }
}

/// The target of a payment: `{"cart":ID}` or `{"order":ID}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    Cart(Token),
    Order(Token),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Initiate {
    pub target: Target,
    pub method: Method,
    /// The amount to pay. By default, and at most, what is due less what is open.
    pub amount: Option<Money>,
    /// The payer; in a team cart a member.
    pub user: Option<Token>,
    /// The token of the cart's lock, to pay under it.
    pub token: Option<i64>,
    /// The gateway's, if it is known already.
    pub transaction_id: Option<Token>,
    /// The order that the cart becomes with the capture that pays it fully.
    pub order_id: Option<Token>,
    pub table_id: Option<Token>,
    /// The open turn of the table. A customer who names a table has to know it (`turn_required`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub turn_id: Option<Token>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BindTransaction {
    pub transaction_id: Token,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum GatewayResult {
    Captured,
    Failed,
    Unknown,
    /// Money of a transaction that was captured has gone back.
    Refunded,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RecordResult {
    pub result: GatewayResult,
    pub transaction_id: Token,
    /// The amount of the result; with `refunded`, all of the transaction that has gone back so far.
    pub amount: Money,
    pub currency: Currency,
    pub occurred_at: Timestamp,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ConfirmCash {
    pub amount: Money,
    pub currency: Currency,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Refund {
    /// The amount that goes back. By default all that was captured and has not gone back.
    pub amount: Option<Money>,
    /// The currency; by default the payment's. What a later transaction captured in another one
    /// goes back in that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub currency: Option<Currency>,
    pub reason: Text<MAX_NOTE>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Settle {
    pub settlement: Settlement,
    pub reason: Text<MAX_NOTE>,
}

/// The matter that a person settles: `{"refund_task":ID}`, `{"captured":{…}}` or `"failed"`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Settlement {
    /// All that was left of the refund task of this id has gone back by another way.
    RefundTask(Text<MAX_NAME>),
    /// The money of an unknown payment came in.
    Captured(SettledCapture),
    /// No money of an unknown payment came in.
    Failed,
}

/// The transaction by which the money of an unknown payment came in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SettledCapture {
    pub transaction_id: Token,
    pub amount: Money,
    pub currency: Currency,
}

/// The part `core` of a payment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Core {
    pub version: u64,
    pub at: Timestamp,
    pub target: Target,
    pub method: Method,
    pub status: Status,
    /// The requested amount; once captured, the captured one.
    pub amount: Money,
    pub currency: Currency,
    pub refunded_amount: Money,
    /// True if the gateway's transaction is known.
    pub bound: bool,
}

/// Money owed back, as the payment's event `refund_requested` says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefundTask {
    /// `<payment>.<n>`, n from 1.
    pub id: String,
    pub payment_id: Token,
    pub amount: Money,
    pub currency: Currency,
    pub reason: RefundReason,
    /// The amount of it that has gone back.
    #[serde(default)]
    pub refunded: Money,
    /// The amount of `refunded` that a person settled.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub settled: Money,
    pub status: TaskStatus,
}

fn is_zero(amount: &Money) -> bool {
    *amount == Money::ZERO
}

impl RefundTask {
    #[must_use]
    pub fn is_open_in(&self, currency: Currency) -> bool {
        self.status == TaskStatus::Open && self.currency == currency
    }
}

/// The reason why money is owed back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RefundReason {
    /// Nothing of it could be applied.
    LateCapture,
    /// Captured in another currency than the target's.
    OtherCurrency,
    /// More was captured than was due.
    Surplus,
    /// Captured by a second transaction.
    CapturedAgain,
}

impl RefundReason {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::LateCapture => "late_capture",
            Self::OtherCurrency => "other_currency",
            Self::Surplus => "surplus",
            Self::CapturedAgain => "captured_again",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TaskStatus {
    Open,
    Done,
}

impl TaskStatus {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Done => "done",
        }
    }
}
