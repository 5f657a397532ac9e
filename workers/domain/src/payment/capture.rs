//! Money came in. It is never refused: what cannot be applied is owed back.

use std::borrow::Cow;

use brigade_contracts::{
    Currency, Money, Refusal,
    cart::CheckOut,
    event::{EventKind, PAYMENT_LATE_CAPTURED, PAYMENT_REFUND_REQUESTED},
    payment::{RefundReason, RefundTask, Status, TaskStatus},
};
use serde::Serialize;

use super::target::PaymentTarget;
use crate::{
    cart,
    changes::Fact,
    outcome::{Done, NotDone, Result},
    state::{Capture, Payment},
    unit_of_work::{Handle, UnitOfWork},
};

/// The report of the gateway or the till, and how much was applied.
#[derive(Serialize)]
struct Report<'a, T> {
    #[serde(flatten)]
    verb: &'a T,
    applied: Money,
}

/// Records a capture, of which the event is of this kind, unless it is late.
pub(super) fn capture(
    work: &mut UnitOfWork<'_>,
    payment: Handle<Payment>,
    captured: Capture,
    kind: EventKind,
    verb: &impl Serialize,
) -> Result<Done> {
    let captures = &work[payment].captures;
    if captures.iter().any(|known| known.transaction_id == captured.transaction_id) {
        return Ok(Done::code("already_captured"));
    }
    if captured.amount == Money::ZERO {
        let message = "nothing can be captured with an amount of 0";
        return Err(Refusal::new(422, "nothing_captured", message).into());
    }
    if captures.is_empty() {
        return capture_first(work, payment, captured, kind, verb);
    }
    let task = work[payment].capture_again(captured);
    request_refund(work, payment, &task);
    Ok(Done::ok().with("refund_tasks", &[task]))
}

/// Applies the first capture as far as possible, and owes the rest back.
fn capture_first(
    work: &mut UnitOfWork<'_>,
    payment: Handle<Payment>,
    captured: Capture,
    kind: EventKind,
    verb: &impl Serialize,
) -> Result<Done> {
    let target = PaymentTarget::load_locked(work, payment)?;
    let is_own_currency = captured.currency == target.currency(work);
    let due = if is_own_currency && work[payment].status.is_open() {
        target.due(work, &work[payment])
    } else {
        Money::ZERO
    };
    let task = work[payment].capture(captured, due, is_own_currency);
    let Payment { status, applied, .. } = work[payment];
    let kind = if status == Status::LateCaptured { PAYMENT_LATE_CAPTURED } else { kind };
    work.record(payment, Fact::new(kind, &Report { verb, applied }));
    if let Some(task) = &task {
        request_refund(work, payment, task);
    }
    target.record(work, payment, applied, Money::ZERO)?;
    let done = Done::ok().with("refund_tasks", task.as_slice());
    match check_out(work, target, payment)? {
        Some(code) => Ok(done.with("check_out", &code)),
        None => Ok(done),
    }
}

/// Checks out a cart that the capture has paid fully, if the payment names the order. The capture
/// is never refused for that: the outcome has the reason, and a later `check_out` does it.
fn check_out(
    work: &mut UnitOfWork<'_>,
    target: PaymentTarget,
    payment: Handle<Payment>,
) -> Result<Option<Cow<'static, str>>> {
    let Payment { order_id, table_id, applied, .. } = &work[payment];
    let (PaymentTarget::Cart { cart, lock }, Some(order_id)) = (target, order_id) else {
        return Ok(None);
    };
    if *applied == Money::ZERO || work[cart].due() > Money::ZERO {
        return Ok(None);
    }
    // Others may still be open under the same lock: they go over to the order.
    let lock = lock.map(|lock| &work[lock]).filter(|lock| lock.is_held());
    let verb = CheckOut {
        order_id: order_id.clone(),
        table_id: table_id.clone(),
        token: lock.map(|lock| lock.token),
    };
    match cart::check_out(work, cart, &verb) {
        Ok(_) => Ok(Some("ok".into())),
        Err(NotDone::Refused(refused)) => Ok(Some(refused.0.code)),
        Err(deferred @ NotDone::Deferred(_)) => Err(deferred),
    }
}

/// Records a refund task that is new.
fn request_refund(work: &mut UnitOfWork<'_>, payment: Handle<Payment>, task: &RefundTask) {
    work.record(payment, Fact::new(PAYMENT_REFUND_REQUESTED, task));
    work.record_refund_task(task.clone());
}

impl Payment {
    /// Takes the first capture, of which so much is due, and makes the task over the rest.
    fn capture(
        &mut self,
        captured: Capture,
        due: Money,
        is_own_currency: bool,
    ) -> Option<RefundTask> {
        let Capture { amount, currency, .. } = captured;
        let late = due == Money::ZERO;
        self.status = if late { Status::LateCaptured } else { Status::Captured };
        self.amount = amount;
        self.currency = currency;
        self.applied = amount.min(due);
        if captured.transaction_id.is_some() {
            self.transaction_id.clone_from(&captured.transaction_id);
        }
        self.captures.push(captured);
        let reason = match self.status {
            _ if !is_own_currency => RefundReason::OtherCurrency,
            Status::LateCaptured => RefundReason::LateCapture,
            _ => RefundReason::Surplus,
        };
        let surplus = amount.less(self.applied);
        (surplus > Money::ZERO).then(|| self.owe(surplus, currency, reason))
    }

    /// Takes one more capture, and makes the task over all of it.
    fn capture_again(&mut self, captured: Capture) -> RefundTask {
        let Capture { amount, currency, .. } = captured;
        self.captures.push(captured);
        self.owe(amount, currency, RefundReason::CapturedAgain)
    }

    fn owe(&mut self, amount: Money, currency: Currency, reason: RefundReason) -> RefundTask {
        let id = &self.head.address.id;
        let task = RefundTask {
            id: format!("{id}.{}", self.tasks.len() + 1),
            payment_id: id.clone(),
            amount,
            currency,
            reason,
            refunded: Money::ZERO,
            status: TaskStatus::Open,
        };
        self.tasks.push(task.clone());
        task
    }
}
