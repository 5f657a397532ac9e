//! The course of a payment after it was initiated: the gateway, the till or a user decides it.

use brigade_contracts::{
    Address, Money, Refusal,
    event::{
        EventKind, PAYMENT_CANCELLED, PAYMENT_CAPTURED, PAYMENT_CASH_CONFIRMED, PAYMENT_FAILED,
        PAYMENT_TRANSACTION_BOUND, PAYMENT_UNKNOWN,
    },
    payment::{BindTransaction, ConfirmCash, GatewayResult, Method, RecordResult, Status},
    verb::Reason,
};
use serde::Serialize;

use super::{
    capture::{Captured, capture},
    target::{PaymentTarget, lock_of},
};
use crate::{
    lock,
    outcome::{Done, Result},
    state::Payment,
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
    if let Some(lock) = lock_of(work, payment)? {
        lock::bind(work, lock, &verb.transaction_id)?;
    }
    work[payment].transaction_id = Some(verb.transaction_id.clone());
    work.record(payment, PAYMENT_TRANSACTION_BOUND, verb);
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
            let captured = Captured {
                transaction_id: Some(verb.transaction_id.clone()),
                amount: verb.amount,
                currency: verb.currency,
                kind: PAYMENT_CAPTURED,
            };
            capture(work, payment, captured, verb)
        }
        (GatewayResult::Failed, status) if status.is_open() && !is_other => {
            end(work, payment, Status::Failed, PAYMENT_FAILED, verb)
        }
        (GatewayResult::Unknown, Status::Initiated) => {
            change(work, payment, Status::Unknown, PAYMENT_UNKNOWN, verb)?;
            Ok(Done::ok())
        }
        (GatewayResult::Failed | GatewayResult::Unknown, _) => Ok(Done::code("ignored")),
    }
}

pub(super) fn confirm_cash(
    work: &mut UnitOfWork<'_>,
    address: &Address,
    verb: &ConfirmCash,
) -> Result<Done> {
    let payment = work.existing::<Payment>(address)?;
    if work[payment].method != Method::Cash {
        return Err(Refusal::new(409, "not_cash", "this payment is not made in cash").into());
    }
    let captured = Captured {
        transaction_id: None,
        amount: verb.amount,
        currency: verb.currency,
        kind: PAYMENT_CASH_CONFIRMED,
    };
    capture(work, payment, captured, verb)
}

pub(super) fn cancel(work: &mut UnitOfWork<'_>, address: &Address, verb: &Reason) -> Result<Done> {
    let payment = work.existing::<Payment>(address)?;
    match work[payment].status {
        Status::Initiated => end(work, payment, Status::Cancelled, PAYMENT_CANCELLED, verb),
        Status::Unknown => {
            let message = "the gateway may still capture this payment: wait for its result";
            Err(Refusal::new(409, "result_unknown", message).into())
        }
        status => Err(payment_ended(status).into()),
    }
}

/// Ends a payment without money. Its lock goes with the last payment that is open under it.
fn end(
    work: &mut UnitOfWork<'_>,
    payment: Handle<Payment>,
    status: Status,
    kind: EventKind,
    data: &impl Serialize,
) -> Result<Done> {
    let target = change(work, payment, status, kind, data)?;
    target.release_if_last(work, payment, status.as_str())?;
    Ok(Done::ok())
}

/// Changes the status of a payment by which no money came in.
fn change(
    work: &mut UnitOfWork<'_>,
    payment: Handle<Payment>,
    status: Status,
    kind: EventKind,
    data: &impl Serialize,
) -> Result<PaymentTarget> {
    let target = PaymentTarget::of(work, payment)?;
    target.live_lock(work)?;
    work[payment].status = status;
    work.record(payment, kind, data);
    target.update(work, payment, Money::ZERO, Money::ZERO)?;
    Ok(target)
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
