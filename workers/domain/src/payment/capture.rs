//! Money came in. It is never refused: what cannot be applied is owed back.

use brigade_contracts::{
    Currency, Money, Refusal, Token,
    event::{Kind, PAYMENT_LATE_CAPTURED, PAYMENT_REFUND_REQUESTED},
    payment::{RefundReason, RefundTask, Status, TaskStatus},
};
use serde::Serialize;

use super::{
    super::{
        cart,
        outcome::{Done, NotDone, Result},
        unit_of_work::UnitOfWork,
    },
    Capture, Payment,
    home::Home,
};

/// A capture as it is told.
pub(super) struct Captured {
    pub transaction_id: Option<Token>,
    pub amount: Money,
    pub currency: Currency,
    /// The event of it, unless it is late.
    pub kind: Kind,
}

/// What the gateway or the till said, and what was applied.
#[derive(Serialize)]
struct Said<'a, T> {
    #[serde(flatten)]
    said: &'a T,
    applied: Money,
}

pub(super) fn capture(
    draft: &mut UnitOfWork<'_>,
    mut payment: Payment,
    captured: Captured,
    said: &impl Serialize,
) -> Result<Done> {
    if payment.captures.iter().any(|c| c.transaction_id == captured.transaction_id) {
        return Ok(Done::code("already_captured"));
    }
    if captured.amount == Money::ZERO {
        let message = "nothing can be captured with an amount of 0";
        return Err(Refusal::new(422, "nothing_captured", message).into());
    }
    let Captured { transaction_id, amount, currency, kind } = captured;
    let first = payment.captures.is_empty();
    payment.captures.push(Capture { transaction_id: transaction_id.clone(), amount, currency });
    if !first {
        let task = draft.owe(&mut payment, amount, currency, RefundReason::CapturedAgain);
        return Ok(Done::ok().with("refund_tasks", &[task]));
    }

    let home = Home::of(draft, &payment.target)?;
    home.settle(draft)?;
    let same_currency = currency == home.currency(draft)?;
    let due = if payment.status.is_open() && same_currency {
        home.due(draft, &payment)?
    } else {
        Money::ZERO
    };
    let applied = amount.min(due);
    let late = applied == Money::ZERO;
    payment.status = if late { Status::LateCaptured } else { Status::Captured };
    payment.applied = applied;
    payment.amount = amount;
    payment.currency = currency;
    if transaction_id.is_some() {
        payment.transaction_id = transaction_id;
    }
    let kind = if late { PAYMENT_LATE_CAPTURED } else { kind };
    draft.record_payment(&mut payment, kind, &Said { said, applied });
    let task = owed_back(draft, &mut payment, same_currency);
    home.show(draft, &payment, applied, Money::ZERO)?;
    home.release_if_last(draft, &payment, "captured")?;
    let done = Done::ok().with("refund_tasks", task.as_slice());
    match check_out(draft, &home, &payment)? {
        Some(code) => Ok(done.with("check_out", &code)),
        None => Ok(done),
    }
}

/// Makes the refund task over what was not applied.
fn owed_back(
    draft: &mut UnitOfWork<'_>,
    payment: &mut Payment,
    same_currency: bool,
) -> Option<RefundTask> {
    let surplus = payment.amount.less(payment.applied);
    if surplus == Money::ZERO {
        return None;
    }
    let reason = match payment.status {
        _ if !same_currency => RefundReason::OtherCurrency,
        Status::LateCaptured => RefundReason::LateCapture,
        _ => RefundReason::Surplus,
    };
    let currency = payment.currency;
    Some(draft.owe(payment, surplus, currency, reason))
}

/// The capture that pays a cart fully checks it out, if the payment said into what. It is never
/// refused for that: why it was not done is told, and a later `check_out` does it.
fn check_out(draft: &mut UnitOfWork<'_>, home: &Home, payment: &Payment) -> Result<Option<String>> {
    let (Some(order_id), Some(cart)) = (&payment.order_id, home.open_cart(draft)?) else {
        return Ok(None);
    };
    if payment.applied == Money::ZERO || cart.due() > Money::ZERO {
        return Ok(None);
    }
    // Others may still be open under the same lock: they go over to the order.
    let token = home.lock_of(draft, payment)?.map(|lock| lock.token);
    match cart::check_out(draft, cart, order_id, payment.table_id.as_ref(), token) {
        Ok(()) => Ok(Some("ok".to_owned())),
        Err(NotDone::Refused(refused)) => Ok(Some(refused.0.code.into_owned())),
        Err(stop) => Err(stop),
    }
}

impl UnitOfWork<'_> {
    /// Makes one more refund task.
    fn owe(
        &mut self,
        payment: &mut Payment,
        amount: Money,
        currency: Currency,
        reason: RefundReason,
    ) -> RefundTask {
        let id = &payment.head.address.id;
        let task = RefundTask {
            id: format!("{id}.{}", payment.tasks.len() + 1),
            payment_id: id.clone(),
            amount,
            currency,
            reason,
            refunded: Money::ZERO,
            status: TaskStatus::Open,
        };
        payment.tasks.push(task.clone());
        self.record_payment(payment, PAYMENT_REFUND_REQUESTED, &task);
        self.record_refund_task(task.clone());
        task
    }

    /// Records a change of a payment that is then changed again.
    fn record_payment(&mut self, payment: &mut Payment, kind: Kind, data: &impl Serialize) {
        self.put_record(payment.clone(), kind, data);
        payment.head.touch(&kind, self.now);
    }
}
