//! Money went back.

use brigade_contracts::{
    Address, Currency, Money, Refusal,
    event::PAYMENT_REFUNDED,
    payment::{Refund, RefundTask, Status, TaskStatus},
};

use super::target::{Change, PaymentTarget};
use crate::{
    changes::Fact,
    outcome::{Done, Result},
    state::Payment,
    unit_of_work::UnitOfWork,
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
    let is_own = currency == present.currency;
    let left = if is_own {
        present.captured()?.less(present.refunded_amount)
    } else {
        present.owed(currency)?
    };
    let amount = amount(verb, left)?;
    let changed = &mut work[payment];
    let refunded = if is_own { amount } else { Money::ZERO };
    changed.refunded_amount = changed.refunded_amount.plus(refunded)?;
    if is_own && amount == left {
        changed.status = Status::Refunded;
    }
    let tasks = changed.pay_tasks(amount, currency)?;
    let (amount, currency) = (Some(amount), Some(currency));
    let data = Refund { amount, currency, reason: verb.reason.clone() };
    let done = Done::ok().with("refund_tasks", &tasks);
    let change = Change { tasks, refunded, ..Change::of(Fact::new(PAYMENT_REFUNDED, &data)) };
    PaymentTarget::load(work, payment)?.record_payment(work, payment, change)?;
    Ok(done)
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

impl Payment {
    /// Returns the sum of all captures in the payment's currency.
    fn captured(&self) -> std::result::Result<Money, Refusal> {
        let same = self.captures.iter().filter(|capture| capture.currency == self.currency);
        same.map(|capture| capture.amount).try_fold(Money::ZERO, Money::plus)
    }

    /// Returns the sum that open tasks in a currency still owe.
    fn owed(&self, currency: Currency) -> std::result::Result<Money, Refusal> {
        let open = self.tasks.iter().filter(|task| task.is_open_in(currency));
        let mut left = open.map(|task| task.amount.less(task.refunded));
        left.try_fold(Money::ZERO, Money::plus)
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
