//! Money went back.

use brigade_contracts::{
    Currency, Money, Refusal,
    event::PAYMENT_REFUNDED,
    payment::{Refund, RefundTask, Status, TaskStatus},
};

use super::{
    super::outcome::{Done, Result},
    super::unit_of_work::UnitOfWork,
    Payment,
    home::Home,
};

/// At most what was captured in a currency, by all transactions, and has not gone back. What is
/// paid stays as it is. What came in another currency than the payment's is nothing but owed back, so
/// only refund tasks know of it.
pub(super) fn refund(
    draft: &mut UnitOfWork<'_>,
    mut payment: Payment,
    said: &Refund,
) -> Result<Done> {
    if payment.captures.is_empty() {
        return Err(Refusal::new(409, "not_captured", "nothing was captured").into());
    }
    let currency = said.currency.unwrap_or(payment.currency);
    let is_own = currency == payment.currency;
    let left = if is_own {
        payment.captured()?.less(payment.refunded_amount)
    } else {
        payment.owed(currency)?
    };
    let amount = said.amount.unwrap_or(left);
    if amount == Money::ZERO || left == Money::ZERO {
        return Err(Refusal::new(409, "nothing_to_refund", "there is nothing to give back").into());
    }
    if amount > left {
        let message = "this is more than was captured and has not gone back";
        return Err(Refusal::new(409, "amount_too_high", message).into());
    }
    let refunded = if is_own { amount } else { Money::ZERO };
    payment.refunded_amount = payment.refunded_amount.plus(refunded)?;
    if is_own && amount == left {
        payment.status = Status::Refunded;
    }
    let tasks = payment.settle(amount, currency)?;
    let home = Home::of(draft, &payment.target)?;
    let said =
        Refund { amount: Some(amount), currency: Some(currency), reason: said.reason.clone() };
    draft.put_record(payment.clone(), PAYMENT_REFUNDED, &said);
    for task in &tasks {
        draft.record_refund_task(task.clone());
    }
    home.show(draft, &payment, Money::ZERO, refunded)?;
    Ok(Done::ok().with("refund_tasks", &tasks))
}

impl Payment {
    /// All that came in, in the payment's currency.
    fn captured(&self) -> Result<Money> {
        let same = self.captures.iter().filter(|capture| capture.currency == self.currency);
        Ok(same.map(|capture| capture.amount).try_fold(Money::ZERO, Money::plus)?)
    }

    /// What open tasks in a currency still ask for.
    fn owed(&self, currency: Currency) -> Result<Money> {
        let open = self.tasks.iter().filter(|task| task.is_open_in(currency));
        let mut left = open.map(|task| task.amount.less(task.refunded));
        Ok(left.try_fold(Money::ZERO, Money::plus)?)
    }

    /// Puts an amount towards the open tasks in its currency, oldest first. A task is done when all
    /// of it has gone back, by however many refunds. Returns those that changed.
    fn settle(&mut self, mut amount: Money, currency: Currency) -> Result<Vec<RefundTask>> {
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
