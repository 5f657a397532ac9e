//! Money came in. It is never refused, unless it is more than any money is: what cannot be applied is
//! owed back.

use std::borrow::Cow;

use brigade_contracts::{
    Address, Currency, Money, Refusal,
    cart::CheckOut,
    event::{EventKind, PAYMENT_CASH_CONFIRMED, PAYMENT_LATE_CAPTURED, PAYMENT_REFUND_REQUESTED},
    payment::{ConfirmCash, Method, RefundReason, RefundTask, Status, TaskStatus},
};
use serde::Serialize;

use super::target::{PaymentChange, PaymentTarget};
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

/// Cash came in.
pub(super) fn confirm_cash(
    work: &mut UnitOfWork<'_>,
    address: &Address,
    verb: &ConfirmCash,
) -> Result<Done> {
    let payment = work.existing::<Payment>(address)?;
    if work[payment].method != Method::Cash {
        return Err(Refusal::new(409, "not_cash", "this payment is not made in cash").into());
    }
    let captured = Capture {
        transaction_id: None,
        amount: verb.amount,
        currency: verb.currency,
        refunded: Money::ZERO,
    };
    capture(work, payment, captured, PAYMENT_CASH_CONFIRMED, verb)
}

/// Records a capture. Its event is of this kind, unless it is late.
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
    captured.amount.bounded()?;
    if captured.amount == Money::ZERO {
        let message = "nothing can be captured with an amount of 0";
        return Err(Refusal::new(422, "nothing_captured", message).into());
    }
    if !captures.is_empty() {
        let change = work[payment].take_again(captured);
        let done = Done::ok().with("refund_tasks", &change.tasks);
        change.record(work, payment);
        return Ok(done);
    }
    let target = PaymentTarget::load_locked(work, payment)?;
    let due = target.due(work, &work[payment], captured.currency);
    let change = work[payment].take(captured, due, kind, verb);
    let done = Done::ok().with("refund_tasks", &change.tasks);
    target.record_payment(work, payment, change)?;
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
    let present = &work[payment];
    let (PaymentTarget::Cart { cart, lock }, Some(order_id)) = (target, &present.order_id) else {
        return Ok(None);
    };
    if present.applied == Money::ZERO || work[cart].due() > Money::ZERO {
        return Ok(None);
    }
    let lock = lock.filter(|lock| work[*lock].is_held());
    // Others may still be open under the same lock: they go over to the order.
    let own = lock.filter(|lock| present.is_under(&work[*lock]));
    let verb = CheckOut {
        order_id: order_id.clone(),
        table_id: present.table_id.clone(),
        turn_id: present.turn_id.clone(),
        token: own.map(|lock| work[lock].token),
    };
    match cart::check_out(work, cart, lock, &verb) {
        Ok(_) => Ok(Some("ok".into())),
        Err(NotDone::Refused(refused)) => Ok(Some(refused.0.code)),
        Err(deferred @ NotDone::Deferred(_)) => Err(deferred),
    }
}

impl Payment {
    /// Takes the first capture, of which so much is due, and owes the rest back.
    fn take(
        &mut self,
        captured: Capture,
        due: Option<Money>,
        kind: EventKind,
        verb: &impl Serialize,
    ) -> PaymentChange {
        let Capture { amount, currency, .. } = captured;
        let applied = amount.min(due.unwrap_or_default());
        let late = applied == Money::ZERO;
        self.status = if late { Status::LateCaptured } else { Status::Captured };
        self.applied = applied;
        self.amount = amount;
        self.currency = currency;
        if captured.transaction_id.is_some() {
            self.transaction_id.clone_from(&captured.transaction_id);
        }
        self.captures.push(captured);
        let kind = if late { PAYMENT_LATE_CAPTURED } else { kind };
        let mut change = PaymentChange::of(Fact::new(kind, &Report { verb, applied }));
        change.applied = applied;
        let reason = match due {
            None => RefundReason::OtherCurrency,
            Some(_) if late => RefundReason::LateCapture,
            Some(_) => RefundReason::Surplus,
        };
        if amount > applied {
            self.owe(amount.less(applied), currency, reason, &mut change);
        }
        change
    }

    /// Takes one more capture, and owes all of it back.
    fn take_again(&mut self, captured: Capture) -> PaymentChange {
        let Capture { amount, currency, .. } = captured;
        let mut change = PaymentChange::default();
        self.captures.push(captured);
        self.owe(amount, currency, RefundReason::CapturedAgain, &mut change);
        change
    }

    /// Makes one more refund task.
    fn owe(
        &mut self,
        amount: Money,
        currency: Currency,
        reason: RefundReason,
        change: &mut PaymentChange,
    ) {
        let id = &self.head.address.id;
        let task = RefundTask {
            id: format!("{id}.{}", self.tasks.len() + 1),
            payment_id: id.clone(),
            amount,
            currency,
            reason,
            refunded: Money::ZERO,
            settled: Money::ZERO,
            status: TaskStatus::Open,
        };
        self.tasks.push(task.clone());
        change.facts.push(Fact::new(PAYMENT_REFUND_REQUESTED, &task));
        change.tasks.push(task);
    }
}
