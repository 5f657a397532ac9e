//! What a person settles: nobody but the restaurant's own people knows it.

use brigade_contracts::{
    Address, Money, Refusal, Timestamp,
    event::{PAYMENT_CAPTURED, PAYMENT_FAILED},
    payment::{GatewayResult, RecordResult, Settle, SettledCapture, Settlement, Status},
};
use serde::Serialize;
use serde_json::json;

use super::{capture::capture, refund, result};
use crate::{
    changes::Fact,
    outcome::{Done, Result},
    security::SecurityKind,
    state::{Capture, Payment},
    unit_of_work::{Handle, UnitOfWork},
};

/// A settled result, as its event says: what a gateway would have said, and why a person says it.
#[derive(Serialize)]
struct SettledResult<'a> {
    #[serde(flatten)]
    result: RecordResult,
    reason: &'a str,
}

/// Settles a refund task, or the result of a payment that is unknown. A repetition changes nothing.
pub(super) fn settle(work: &mut UnitOfWork<'_>, address: &Address, verb: &Settle) -> Result<Done> {
    let payment = work.existing::<Payment>(address)?;
    match &verb.settlement {
        Settlement::RefundTask(id) => {
            refund::settle(work, payment, id.as_str(), verb.reason.as_str())
        }
        Settlement::Captured(captured) => settle_captured(work, payment, verb, captured),
        Settlement::Failed => settle_failed(work, payment, verb),
    }
}

fn settle_captured(
    work: &mut UnitOfWork<'_>,
    payment: Handle<Payment>,
    verb: &Settle,
    captured: &SettledCapture,
) -> Result<Done> {
    let transaction_id = Some(captured.transaction_id.clone());
    let known = &work[payment].captures;
    if known.iter().any(|capture| capture.transaction_id == transaction_id) {
        return Ok(Done::code("already_captured"));
    }
    require_unknown(work, payment)?;
    log(work, payment, verb);
    let SettledCapture { amount, currency, .. } = *captured;
    let result = said(GatewayResult::Captured, captured, work.now);
    let data = SettledResult { result, reason: verb.reason.as_str() };
    let captured = Capture { transaction_id, amount, currency, refunded: Money::ZERO };
    capture(work, payment, captured, PAYMENT_CAPTURED, &data)
}

fn settle_failed(
    work: &mut UnitOfWork<'_>,
    payment: Handle<Payment>,
    verb: &Settle,
) -> Result<Done> {
    if work[payment].status == Status::Failed {
        return Ok(Done::code("already_settled"));
    }
    require_unknown(work, payment)?;
    log(work, payment, verb);
    let data = json!({ "result": GatewayResult::Failed, "reason": verb.reason });
    result::change(work, payment, Status::Failed, Fact::new(PAYMENT_FAILED, &data))
}

fn said(result: GatewayResult, captured: &SettledCapture, now: Timestamp) -> RecordResult {
    let SettledCapture { transaction_id, amount, currency } = captured.clone();
    RecordResult { result, transaction_id, amount, currency, occurred_at: now }
}

fn require_unknown(
    work: &UnitOfWork<'_>,
    payment: Handle<Payment>,
) -> std::result::Result<(), Refusal> {
    let status = work[payment].status;
    if status == Status::Unknown {
        return Ok(());
    }
    let message = format!("the payment is {}: only an unknown one is settled", status.as_str());
    Err(Refusal::new(409, "not_unknown", message))
}

fn log(work: &mut UnitOfWork<'_>, payment: Handle<Payment>, verb: &Settle) {
    let address = work[payment].head.address.clone();
    work.log(SecurityKind::PaymentSettled, &address, json!(verb));
}
