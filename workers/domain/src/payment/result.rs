//! The course of a payment after it was initiated: the gateway or a user decides it.

use brigade_contracts::{
    Address, Aggregate, Money, Refusal,
    event::{
        PAYMENT_CANCELLED, PAYMENT_CAPTURED, PAYMENT_FAILED, PAYMENT_TRANSACTION_BOUND,
        PAYMENT_UNKNOWN,
    },
    payment::{BindTransaction, GatewayResult, RecordResult, Status, Target},
    verb::Reason,
};

use super::{
    capture::capture,
    refund,
    target::{PaymentChange, PaymentTarget, live_lock},
};
use crate::{
    changes::Fact,
    outcome::{Done, Result},
    state::{Capture, Payment},
    unit_of_work::{Handle, UnitOfWork},
};

pub(super) fn bind_transaction(
    work: &mut UnitOfWork<'_>,
    address: &Address,
    verb: &BindTransaction,
) -> Result<Done> {
    let payment = work.existing::<Payment>(address)?;
    if !work[payment].status.is_open() {
        return Err(payment_ended(work[payment].status).into());
    }
    // An order, which has no lock, is not loaded.
    if let Target::Cart(id) = work[payment].target.clone() {
        let cart = work.existing(&work.address(Aggregate::Cart, &id))?;
        let lock = live_lock(work, cart)?;
        if let Some(lock) = lock.filter(|lock| work[payment].is_under(&work[*lock])) {
            work.change_lock(lock, |lock| lock.bind(&verb.transaction_id))?;
        }
    }
    work[payment].transaction_id = Some(verb.transaction_id.clone());
    work.record(payment, Fact::new(PAYMENT_TRANSACTION_BOUND, verb));
    Ok(Done::ok())
}

pub(super) fn record(
    work: &mut UnitOfWork<'_>,
    address: &Address,
    verb: &RecordResult,
) -> Result<Done> {
    let payment = work.load::<Payment>(address)?.ok_or_else(not_there_yet)?;
    let Payment { status, transaction_id, .. } = &work[payment];
    let is_other = transaction_id.as_ref().is_some_and(|bound| *bound != verb.transaction_id);
    match (verb.result, *status) {
        (GatewayResult::Captured, _) => {
            let captured = Capture {
                transaction_id: Some(verb.transaction_id.clone()),
                amount: verb.amount,
                currency: verb.currency,
                refunded: Money::ZERO,
            };
            capture(work, payment, captured, PAYMENT_CAPTURED, verb)
        }
        (GatewayResult::Refunded, _) => refund::refunded_by_gateway(work, payment, verb),
        (GatewayResult::Failed, status) if status.is_open() && !is_other => {
            change(work, payment, Status::Failed, Fact::new(PAYMENT_FAILED, verb))
        }
        (GatewayResult::Unknown, Status::Initiated) => {
            change(work, payment, Status::Unknown, Fact::new(PAYMENT_UNKNOWN, verb))
        }
        (GatewayResult::Failed | GatewayResult::Unknown, _) => Ok(Done::code("ignored")),
    }
}

pub(super) fn cancel(work: &mut UnitOfWork<'_>, address: &Address, verb: &Reason) -> Result<Done> {
    let payment = work.existing::<Payment>(address)?;
    match work[payment].status {
        Status::Initiated => {
            change(work, payment, Status::Cancelled, Fact::new(PAYMENT_CANCELLED, verb))
        }
        Status::Unknown => {
            let message = "the gateway may still capture this payment: wait for its result";
            Err(Refusal::new(409, "result_unknown", message).into())
        }
        status => Err(payment_ended(status).into()),
    }
}

/// Changes the status of a payment by which no money came in.
pub(super) fn change(
    work: &mut UnitOfWork<'_>,
    payment: Handle<Payment>,
    status: Status,
    fact: Fact,
) -> Result<Done> {
    let target = PaymentTarget::load_locked(work, payment)?;
    work[payment].status = status;
    target.record_payment(work, payment, PaymentChange::of(fact))?;
    Ok(Done::ok())
}

fn payment_ended(status: Status) -> Refusal {
    let message = format!("the payment is {} already", status.as_str());
    Refusal::new(409, "payment_ended", message)
}

fn not_there_yet() -> Refusal {
    let message = "there is no such payment yet; the result is not recorded: send it again";
    let refusal = Refusal::new(503, "payment_not_there_yet", message);
    Refusal { retry_after_ms: Some(1000), ..refusal }
}
