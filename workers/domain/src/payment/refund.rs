//! Money went back.

use brigade_contracts::{
    Address, Currency, Money, Refusal,
    event::{PAYMENT_REFUND_SETTLED, PAYMENT_REFUNDED},
    payment::{RecordResult, Refund, RefundTask, Status, TaskStatus},
};
use serde::Serialize;

use super::target::{PaymentChange, PaymentTarget};
use crate::{
    changes::Fact,
    outcome::{Done, Result},
    state::{Capture, Payment},
    unit_of_work::{Handle, UnitOfWork},
};

/// Records a refund: at most what was captured in a currency, by all transactions, and has not gone
/// back. What is paid stays as it is. Money that came in another currency than the payment's is
/// nothing but owed back, so only refund tasks know of it.
pub(super) fn refund(work: &mut UnitOfWork<'_>, address: &Address, verb: &Refund) -> Result<Done> {
    let payment = work.existing::<Payment>(address)?;
    let present = &work[payment];
    if present.captures.is_empty() {
        return Err(Refusal::new(409, "not_captured", "nothing was captured").into());
    }
    let currency = verb.currency.unwrap_or(present.currency);
    let left = present.left(currency)?;
    let amount = amount(verb, left)?;
    let given_back = ReturnedMoney { amount, currency, reason: verb.reason.as_str() };
    given_back.record(work, payment)
}

/// Records what the gateway has given back of a transaction so far: what is known of that already is
/// not counted again, so its words may come late, repeated and in any order.
pub(super) fn refunded_by_gateway(
    work: &mut UnitOfWork<'_>,
    payment: Handle<Payment>,
    verb: &RecordResult,
) -> Result<Done> {
    let transaction_id = Some(&verb.transaction_id);
    let present = &work[payment];
    let of_it = |capture: &Capture| capture.transaction_id.as_ref() == transaction_id;
    let at = present.captures.iter().position(of_it).ok_or_else(not_captured_yet)?;
    let Capture { amount: captured, currency, refunded, .. } = present.captures[at];
    if verb.currency != currency {
        let message = "the transaction captured in another currency";
        return Err(Refusal::new(409, "other_currency", message).into());
    }
    // Of a transaction goes back what it captured at most, whatever other ones did.
    let told = verb.amount.min(captured).less(refunded);
    // What is recorded without a transaction, the gateway tells of now.
    let amount = told.less(present.gone_untold(currency)?);
    if told > Money::ZERO {
        work[payment].captures[at].refunded = refunded.plus(told)?;
    }
    if amount == Money::ZERO {
        return Ok(Done::code("ignored"));
    }
    ReturnedMoney { amount, currency, reason: "refunded by the gateway" }.record(work, payment)
}

/// Records that a refund task was paid back by another way, whatever is left of it.
pub(super) fn settle(
    work: &mut UnitOfWork<'_>,
    payment: Handle<Payment>,
    id: &str,
    reason: &str,
) -> Result<Done> {
    let at = work[payment].tasks.iter().position(|task| task.id == id);
    let at = at.ok_or_else(|| {
        let message = "this payment has no such refund task";
        Refusal::new(404, "refund_task_not_found", message)
    })?;
    let present = &work[payment].tasks[at];
    if present.status == TaskStatus::Done {
        return Ok(Done::code("already_settled"));
    }
    let (amount, currency) = (present.amount.less(present.refunded), present.currency);
    let changed = &mut work[payment];
    let refunded = changed.give_back(amount, currency)?;
    let task = &mut changed.tasks[at];
    task.refunded = task.amount;
    task.settled = task.settled.plus(amount)?;
    task.status = TaskStatus::Done;
    let tasks = vec![task.clone()];
    let data = SettledTask { refund_task: id, amount, currency, reason };
    let fact = Fact::new(PAYMENT_REFUND_SETTLED, &data);
    record(work, payment, PaymentChange { tasks, refunded, ..PaymentChange::of(fact) })
}

/// Money that went back, as its event says.
#[derive(Serialize)]
struct ReturnedMoney<'a> {
    amount: Money,
    currency: Currency,
    reason: &'a str,
}

/// A refund task that a person settled, as its event says.
#[derive(Serialize)]
struct SettledTask<'a> {
    refund_task: &'a str,
    amount: Money,
    currency: Currency,
    reason: &'a str,
}

impl ReturnedMoney<'_> {
    fn record(self, work: &mut UnitOfWork<'_>, payment: Handle<Payment>) -> Result<Done> {
        let changed = &mut work[payment];
        let refunded = changed.give_back(self.amount, self.currency)?;
        let tasks = changed.pay_tasks(self.amount, self.currency)?;
        let fact = Fact::new(PAYMENT_REFUNDED, &self);
        record(work, payment, PaymentChange { tasks, refunded, ..PaymentChange::of(fact) })
    }
}

fn record(
    work: &mut UnitOfWork<'_>,
    payment: Handle<Payment>,
    change: PaymentChange,
) -> Result<Done> {
    let done = Done::ok().with("refund_tasks", &change.tasks);
    PaymentTarget::load(work, payment)?.record_payment(work, payment, change)?;
    Ok(done)
}

fn not_captured_yet() -> Refusal {
    let message = "this transaction has captured nothing yet; the result is not recorded: send it \
                   again";
    let refusal = Refusal::new(503, "payment_not_captured_yet", message);
    Refusal { retry_after_ms: Some(1000), ..refusal }
}

/// Returns the amount of a refund: by default, and at most, what has not gone back.
fn amount(verb: &Refund, left: Money) -> std::result::Result<Money, Refusal> {
    let amount = verb.amount.unwrap_or(left);
    if amount == Money::ZERO || left == Money::ZERO {
        return Err(Refusal::new(409, "nothing_to_refund", "there is nothing to give back"));
    }
    if amount > left {
        let message = "this is more than was captured and has not gone back";
        return Err(Refusal::new(409, "amount_too_high", message));
    }
    Ok(amount)
}

fn sum(mut amounts: impl Iterator<Item = Money>) -> std::result::Result<Money, Refusal> {
    amounts.try_fold(Money::ZERO, Money::plus)
}

impl Payment {
    /// Returns what came in in a currency and has not gone back.
    fn left(&self, currency: Currency) -> std::result::Result<Money, Refusal> {
        Ok(self.captured(currency)?.less(self.gone(currency)?))
    }

    /// Returns what has gone back of what came in in a currency. Of another one than the payment's
    /// all is owed back, so its refund tasks tell.
    fn gone(&self, currency: Currency) -> std::result::Result<Money, Refusal> {
        if currency == self.currency {
            return Ok(self.refunded_amount);
        }
        let tasks = self.tasks.iter().filter(|task| task.currency == currency);
        sum(tasks.map(|task| task.refunded))
    }

    /// Returns what has gone back in a currency that no gateway has told of.
    fn gone_untold(&self, currency: Currency) -> std::result::Result<Money, Refusal> {
        let told = sum(self.captures_in(currency).map(|capture| capture.refunded))?;
        Ok(self.gone(currency)?.less(told))
    }

    /// Counts an amount that went back. Returns how much of it was in the payment's currency.
    fn give_back(
        &mut self,
        amount: Money,
        currency: Currency,
    ) -> std::result::Result<Money, Refusal> {
        if currency != self.currency {
            return Ok(Money::ZERO);
        }
        self.refunded_amount = self.refunded_amount.plus(amount)?;
        if self.refunded_amount == self.captured(currency)? {
            self.status = Status::Refunded;
        }
        Ok(amount)
    }

    fn captures_in(&self, currency: Currency) -> impl Iterator<Item = &Capture> {
        self.captures.iter().filter(move |capture| capture.currency == currency)
    }

    /// Returns the sum of all captures in a currency.
    fn captured(&self, currency: Currency) -> std::result::Result<Money, Refusal> {
        sum(self.captures_in(currency).map(|capture| capture.amount))
    }

    /// Puts an amount towards the open tasks in its currency, oldest first. A task is done when all
    /// of it has gone back, by however many refunds. Returns those that changed.
    fn pay_tasks(
        &mut self,
        mut amount: Money,
        currency: Currency,
    ) -> std::result::Result<Vec<RefundTask>, Refusal> {
        let mut changed = Vec::new();
        for task in self.tasks.iter_mut().filter(|task| task.is_open_in(currency)) {
            let part = amount.min(task.amount.less(task.refunded));
            if part == Money::ZERO {
                break;
            }
            amount = amount.less(part);
            task.refunded = task.refunded.plus(part)?;
            if task.refunded == task.amount {
                task.status = TaskStatus::Done;
            }
            changed.push(task.clone());
        }
        Ok(changed)
    }
}
