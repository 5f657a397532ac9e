//! Money went back.

use brigade_contracts::{
    Money, Refusal,
    event::PAYMENT_REFUNDED,
    payment::{Refund, RefundTask, Status, TaskStatus},
};

use super::{
    super::draft::{Done, Draft, Result},
    Payment,
    home::Home,
};

/// At most what was captured, by all transactions in the payment's currency, and has not gone back.
/// What is paid stays as it is.
pub(super) fn refund(draft: &mut Draft<'_>, mut payment: Payment, said: &Refund) -> Result<Done> {
    if payment.captures.is_empty() {
        return Err(Refusal::new(409, "not_captured", "nothing was captured").into());
    }
    let left = payment.captured()?.less(payment.refunded_amount);
    let amount = said.amount.unwrap_or(left);
    if amount == Money::ZERO || left == Money::ZERO {
        return Err(Refusal::new(409, "nothing_to_refund", "there is nothing to give back").into());
    }
    if amount > left {
        let message = "this is more than was captured and has not gone back";
        return Err(Refusal::new(409, "amount_too_high", message).into());
    }
    payment.refunded_amount = payment.refunded_amount.plus(amount)?;
    if amount == left {
        payment.status = Status::Refunded;
    }
    let tasks = payment.settle(amount);
    let home = Home::of(draft, &payment.target)?;
    let said = Refund { amount: Some(amount), reason: said.reason.clone() };
    draft.record(payment.clone(), PAYMENT_REFUNDED, &said);
    for task in &tasks {
        draft.note_task(task.clone());
    }
    home.show(draft, &payment, Money::ZERO)?;
    Ok(Done::ok().with("refund_tasks", &tasks))
}

impl Payment {
    /// All that came in, in the payment's currency.
    fn captured(&self) -> Result<Money> {
        let same = self.captures.iter().filter(|capture| capture.currency == self.currency);
        Ok(same.map(|capture| capture.amount).try_fold(Money::ZERO, Money::plus)?)
    }

    /// Sets open tasks done, oldest first, as far as the amount covers whole ones.
    fn settle(&mut self, mut amount: Money) -> Vec<RefundTask> {
        let mut done = Vec::new();
        let currency = self.currency;
        let open = |task: &&mut RefundTask| task.status == TaskStatus::Open;
        for task in self.tasks.iter_mut().filter(open).filter(|task| task.currency == currency) {
            if task.amount > amount {
                break;
            }
            amount = amount.less(task.amount);
            task.status = TaskStatus::Done;
            done.push(task.clone());
        }
        done
    }
}
