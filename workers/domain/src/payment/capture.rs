//! Money came in. It is never refused: what cannot be applied is owed back.

use brigade_contracts::{
    Currency, Money, Refusal, Token,
    event::{EventKind, PAYMENT_LATE_CAPTURED, PAYMENT_REFUND_REQUESTED},
    payment::{RefundReason, RefundTask, Status, TaskStatus},
};
use serde::Serialize;

use super::target::PaymentTarget;
use crate::{
    cart,
    outcome::{Done, NotDone, Result},
    state::{Capture, Payment},
    unit_of_work::{Handle, UnitOfWork},
};

/// A capture that is reported.
pub(super) struct Captured {
    pub transaction_id: Option<Token>,
    pub amount: Money,
    pub currency: Currency,
    /// The event that is made of it, unless it is late.
    pub kind: EventKind,
}

/// The report of the gateway or the till, and how much was applied.
#[derive(Serialize)]
struct Report<'a, T> {
    #[serde(flatten)]
    verb: &'a T,
    applied: Money,
}

pub(super) fn capture(
    work: &mut UnitOfWork<'_>,
    payment: Handle<Payment>,
    captured: Captured,
    verb: &impl Serialize,
) -> Result<Done> {
    let Captured { transaction_id, amount, currency, .. } = &captured;
    if work[payment].captures.iter().any(|capture| capture.transaction_id == *transaction_id) {
        return Ok(Done::code("already_captured"));
    }
    if *amount == Money::ZERO {
        let message = "nothing can be captured with an amount of 0";
        return Err(Refusal::new(422, "nothing_captured", message).into());
    }
    let first = work[payment].captures.is_empty();
    work[payment].captures.push(Capture {
        transaction_id: transaction_id.clone(),
        amount: *amount,
        currency: *currency,
    });
    if first {
        return apply(work, payment, captured, verb);
    }
    let task = owe(work, payment, *amount, *currency, RefundReason::CapturedAgain);
    Ok(Done::ok().with("refund_tasks", &[task]))
}

/// Applies the first capture as far as possible, and owes the rest back.
fn apply(
    work: &mut UnitOfWork<'_>,
    payment: Handle<Payment>,
    captured: Captured,
    verb: &impl Serialize,
) -> Result<Done> {
    let Captured { transaction_id, amount, currency, kind } = captured;
    let target = PaymentTarget::of(work, payment)?;
    target.live_lock(work)?;
    let same_currency = currency == target.currency(work);
    let due = if work[payment].status.is_open() && same_currency {
        target.due(work, payment)?
    } else {
        Money::ZERO
    };
    let applied = amount.min(due);
    let late = applied == Money::ZERO;
    let changed = &mut work[payment];
    changed.status = if late { Status::LateCaptured } else { Status::Captured };
    changed.applied = applied;
    changed.amount = amount;
    changed.currency = currency;
    if transaction_id.is_some() {
        changed.transaction_id = transaction_id;
    }
    let kind = if late { PAYMENT_LATE_CAPTURED } else { kind };
    work.record(payment, kind, &Report { verb, applied });
    let task = owe_surplus(work, payment, same_currency);
    target.update(work, payment, applied, Money::ZERO)?;
    target.release_if_last(work, payment, "captured")?;
    let done = Done::ok().with("refund_tasks", task.as_slice());
    match check_out(work, target, payment)? {
        Some(code) => Ok(done.with("check_out", &code)),
        None => Ok(done),
    }
}

/// Makes the refund task over what was not applied.
fn owe_surplus(
    work: &mut UnitOfWork<'_>,
    payment: Handle<Payment>,
    same_currency: bool,
) -> Option<RefundTask> {
    let Payment { amount, applied, currency, status, .. } = work[payment];
    let surplus = amount.less(applied);
    if surplus == Money::ZERO {
        return None;
    }
    let reason = match status {
        _ if !same_currency => RefundReason::OtherCurrency,
        Status::LateCaptured => RefundReason::LateCapture,
        _ => RefundReason::Surplus,
    };
    Some(owe(work, payment, surplus, currency, reason))
}

/// Makes one more refund task.
fn owe(
    work: &mut UnitOfWork<'_>,
    payment: Handle<Payment>,
    amount: Money,
    currency: Currency,
    reason: RefundReason,
) -> RefundTask {
    let changed = &mut work[payment];
    let id = &changed.head.address.id;
    let task = RefundTask {
        id: format!("{id}.{}", changed.tasks.len() + 1),
        payment_id: id.clone(),
        amount,
        currency,
        reason,
        refunded: Money::ZERO,
        status: TaskStatus::Open,
    };
    changed.tasks.push(task.clone());
    work.record(payment, PAYMENT_REFUND_REQUESTED, &task);
    work.record_refund_task(task.clone());
    task
}

/// Checks out a cart that the capture has paid fully, if the payment names the order. The capture
/// is never refused for that: the outcome has the reason, and a later `check_out` does it.
fn check_out(
    work: &mut UnitOfWork<'_>,
    target: PaymentTarget,
    payment: Handle<Payment>,
) -> Result<Option<String>> {
    let Payment { order_id, table_id, applied, .. } = &work[payment];
    let (Some(order_id), Some(cart)) = (order_id.clone(), target.open_cart(work)) else {
        return Ok(None);
    };
    if *applied == Money::ZERO || work[cart].due() > Money::ZERO {
        return Ok(None);
    }
    let table_id = table_id.clone();
    // Others may still be open under the same lock: they go over to the order.
    let token = target.lock_of(work, payment)?.map(|lock| work[lock].token);
    match cart::check_out(work, cart, &order_id, table_id.as_ref(), token) {
        Ok(()) => Ok(Some("ok".to_owned())),
        Err(NotDone::Refused(refused)) => Ok(Some(refused.0.code.into_owned())),
        Err(deferred @ NotDone::Deferred(_)) => Err(deferred),
    }
}
