//! Payments of carts and orders.
//!
//! ```text
//! (nothing) ─ initiate ─► initiated ─ record_result, confirm_cash ─► captured ────────┐
//!                         │   │  ▲ └─ record_result, nothing applied ─► late_captured ┤
//!                         │   │  │                                          ▲  ▲      │ refund,
//!                         │   │  └ bind_transaction                        │  │      │ fully
//!                         │   └─ record_result ─► failed ── captured late ──┘  │      ▼
//!                         └─ cancel ─► cancelled ── captured late ─────────────┘  refunded
//!
//! initiated ─ record_result ─► unknown ─ record_result ─► as from initiated (but no cancel)
//! ```
//!
//! A payment of a cart is made under its owner's lock (`super::lock`), which goes with the last
//! payment that is open under it. What is captured is either applied to the cart, or to the order
//! that it became, or owed back (a refund task): nothing the gateway says is dropped.

mod capture;
mod home;
mod initiate;
mod refund;

use brigade_contracts::{
    Address, Currency, Money, Refusal, Token,
    cart::Reason,
    event::{
        PAYMENT_CANCELLED, PAYMENT_CASH_CONFIRMED, PAYMENT_FAILED, PAYMENT_TRANSACTION_BOUND,
        PAYMENT_UNKNOWN,
    },
    payment::{
        BindTransaction, ConfirmCash, Core, GatewayResult, Method, RecordResult, RefundTask,
        Status, Target, Verb,
    },
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use self::{capture::Captured, home::Home};
use super::{
    Head,
    json::raw,
    outcome::{Done, Result},
    refusal::{already_exists, not_found},
    unit_of_work::UnitOfWork,
};
pub use crate::state::entry::Entry;

/// A payment as SQL keeps it.
#[derive(Clone, Debug, PartialEq)]
pub struct Payment {
    pub head: Head,
    pub target: Target,
    pub method: Method,
    pub status: Status,
    /// What was asked for; once captured, what was captured first.
    pub amount: Money,
    pub currency: Currency,
    pub refunded_amount: Money,
    pub user: Option<Token>,
    /// The fencing token of the lock that it was initiated under; of a cart's.
    pub token: Option<i64>,
    /// Of the cart's contents when it was initiated.
    pub fingerprint: Option<String>,
    pub transaction_id: Option<Token>,
    /// What of the amount was applied; for all else that was captured there are refund tasks.
    pub applied: Money,
    /// Each transaction that captured, the first one first.
    pub captures: Vec<Capture>,
    /// What the cart becomes with the capture that pays it fully.
    pub order_id: Option<Token>,
    pub table_id: Option<Token>,
    /// Oldest first; the n-th has the id `<payment>.<n>`.
    pub tasks: Vec<RefundTask>,
}

/// Money that came in. Cash has no transaction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capture {
    pub transaction_id: Option<Token>,
    pub amount: Money,
    pub currency: Currency,
}

pub(super) fn decide(draft: &mut UnitOfWork<'_>, address: &Address, verb: &Verb) -> Result<Done> {
    let payment = draft.payment(address)?;
    if let Verb::Initiate(said) = verb {
        return match payment {
            None => initiate::initiate(draft, address, said),
            Some(_) => Err(already_exists().into()),
        };
    }
    let payment = payment.ok_or_else(|| match verb {
        Verb::RecordResult(_) => not_there_yet(),
        _ => not_found(),
    })?;
    match verb {
        Verb::Initiate(_) => unreachable!("decided above"),
        Verb::BindTransaction(said) => bind_transaction(draft, payment, said),
        Verb::RecordResult(said) => record_result(draft, payment, said),
        Verb::ConfirmCash(said) => confirm_cash(draft, payment, said),
        Verb::Cancel(said) => cancel(draft, payment, said),
        Verb::Refund(said) => refund::refund(draft, payment, said),
    }
}

fn bind_transaction(
    draft: &mut UnitOfWork<'_>,
    mut payment: Payment,
    said: &BindTransaction,
) -> Result<Done> {
    if !payment.status.is_open() {
        return Err(payment.ended().into());
    }
    let home = Home::of(draft, &payment.target)?;
    if let Some(lock) = home.lock_of(draft, &payment)? {
        draft.bind(lock, &said.transaction_id)?;
    }
    payment.transaction_id = Some(said.transaction_id.clone());
    draft.put_record(payment, PAYMENT_TRANSACTION_BOUND, said);
    Ok(Done::ok())
}

fn record_result(
    draft: &mut UnitOfWork<'_>,
    mut payment: Payment,
    said: &RecordResult,
) -> Result<Done> {
    let stranger =
        payment.transaction_id.as_ref().is_some_and(|bound| *bound != said.transaction_id);
    match (said.result, payment.status) {
        (GatewayResult::Captured, _) => {
            let captured = Captured {
                transaction_id: Some(said.transaction_id.clone()),
                amount: said.amount,
                currency: said.currency,
                kind: brigade_contracts::event::PAYMENT_CAPTURED,
            };
            capture::capture(draft, payment, captured, said)
        }
        (GatewayResult::Failed, status) if status.is_open() && !stranger => {
            payment.status = Status::Failed;
            ended_without_money(draft, payment, PAYMENT_FAILED, said, "failed")
        }
        (GatewayResult::Unknown, Status::Initiated) => {
            payment.status = Status::Unknown;
            let home = Home::of(draft, &payment.target)?;
            home.settle(draft)?;
            draft.put_record(payment.clone(), PAYMENT_UNKNOWN, said);
            home.show(draft, &payment, Money::ZERO, Money::ZERO)?;
            Ok(Done::ok())
        }
        (GatewayResult::Failed | GatewayResult::Unknown, _) => Ok(Done::code("ignored")),
    }
}

fn confirm_cash(draft: &mut UnitOfWork<'_>, payment: Payment, said: &ConfirmCash) -> Result<Done> {
    if payment.method != Method::Cash {
        return Err(Refusal::new(409, "not_cash", "this payment is not made in cash").into());
    }
    let captured = Captured {
        transaction_id: None,
        amount: said.amount,
        currency: said.currency,
        kind: PAYMENT_CASH_CONFIRMED,
    };
    capture::capture(draft, payment, captured, said)
}

fn cancel(draft: &mut UnitOfWork<'_>, mut payment: Payment, said: &Reason) -> Result<Done> {
    match payment.status {
        Status::Initiated => {
            payment.status = Status::Cancelled;
            ended_without_money(draft, payment, PAYMENT_CANCELLED, said, "cancelled")
        }
        Status::Unknown => {
            let message = "the gateway may still capture this payment: wait for its result";
            Err(Refusal::new(409, "result_unknown", message).into())
        }
        _ => Err(payment.ended().into()),
    }
}

fn ended_without_money(
    draft: &mut UnitOfWork<'_>,
    payment: Payment,
    kind: brigade_contracts::event::Kind,
    said: &impl Serialize,
    reason: &str,
) -> Result<Done> {
    let home = Home::of(draft, &payment.target)?;
    home.settle(draft)?;
    draft.put_record(payment.clone(), kind, said);
    home.show(draft, &payment, Money::ZERO, Money::ZERO)?;
    home.release_if_last(draft, &payment, reason)?;
    Ok(Done::ok())
}

impl Payment {
    pub(super) fn entry(&self) -> Entry {
        let payment = self;
        Entry {
            shown: brigade_contracts::cart::Payment {
                id: payment.head.address.id.clone(),
                user: payment.user.clone(),
                method: payment.method,
                status: payment.status,
                amount: payment.amount,
                refunded_amount: payment.refunded_amount,
            },
            token: payment.token,
            applied: payment.applied,
        }
    }

    /// The part `core`.
    pub(super) fn core(&self) -> Box<RawValue> {
        raw(&Core {
            version: self.head.version,
            at: self.head.at,
            target: self.target.clone(),
            method: self.method,
            status: self.status,
            amount: self.amount,
            currency: self.currency,
            refunded_amount: self.refunded_amount,
            bound: self.transaction_id.is_some(),
        })
    }

    fn ended(&self) -> Refusal {
        let message = format!("the payment is {} already", self.status.as_str());
        Refusal::new(409, "payment_ended", message)
    }
}

fn not_there_yet() -> Refusal {
    let message = "there is no such payment yet; the result is not recorded: send it again";
    let refusal = Refusal::new(503, "payment_not_there_yet", message);
    Refusal { retry_after_ms: Some(1000), ..refusal }
}

#[cfg(test)]
mod tests;
