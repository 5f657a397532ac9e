//! Orders.
//!
//! ```text
//! (nothing) ─ place ─► placed ─ accept ─► accepted ─ prepare ─► preparing ─ ready ─► ready
//!                        │                    │                     │                  │ serve
//!                        └────────────────────┴──── cancel ─────────┴──────────────┐   ▼
//!                                                                     cancelled ◄──┘ served
//!                                                                                      │ complete
//!                                                                                      ▼
//!                                                                                  completed
//! ```
//!
//! `placed` is also what a cart becomes by its check-out. Payments come and go in any status; an
//! order is paid (`paid_at`) once, when nothing is due.

mod paid;
mod place;

pub(crate) use self::{
    paid::record_paid,
    place::{of_cart, place_cart},
};
use crate::{
    outcome::{Done, Result},
    refusal::payment_open,
    state::Order,
    unit_of_work::UnitOfWork,
};
use brigade_contracts::{
    Address, Money, Refusal,
    event::{
        EventKind, ORDER_ACCEPTED, ORDER_CANCELLED, ORDER_COMPLETED, ORDER_PREPARING, ORDER_READY,
        ORDER_SERVED,
    },
    order::{Status, Verb},
    verb::{Nothing, Reason},
};

pub(crate) fn decide(work: &mut UnitOfWork<'_>, address: &Address, verb: &Verb) -> Result<Done> {
    let (to, kind) = match verb {
        Verb::Place(place) => return place::place(work, address, place),
        Verb::Cancel(reason) => return cancel(work, address, reason),
        Verb::Accept(Nothing {}) => (Status::Accepted, ORDER_ACCEPTED),
        Verb::Prepare(Nothing {}) => (Status::Preparing, ORDER_PREPARING),
        Verb::Ready(Nothing {}) => (Status::Ready, ORDER_READY),
        Verb::Serve(Nothing {}) => (Status::Served, ORDER_SERVED),
        Verb::Complete(Nothing {}) => (Status::Completed, ORDER_COMPLETED),
    };
    step(work, address, to, kind)
}

/// Takes an order one step forward, from the status right before `to`.
fn step(work: &mut UnitOfWork<'_>, address: &Address, to: Status, kind: EventKind) -> Result<Done> {
    let order = work.existing::<Order>(address)?;
    let from = work[order].status;
    if from.next() != Some(to) {
        return Err(illegal_step(from, to).into());
    }
    work[order].status = to;
    work.record(order, kind, &Nothing {});
    Ok(Done::ok())
}

fn cancel(work: &mut UnitOfWork<'_>, address: &Address, verb: &Reason) -> Result<Done> {
    let order = work.existing::<Order>(address)?;
    let present = &work[order];
    if present.status >= Status::Served {
        return Err(illegal_step(present.status, Status::Cancelled).into());
    }
    if present.paid > Money::ZERO {
        let message = "something is paid: refund it instead";
        return Err(Refusal::new(409, "order_paid", message).into());
    }
    if present.has_open_payment() {
        return Err(payment_open().into());
    }
    let cancelled = &mut work[order];
    cancelled.status = Status::Cancelled;
    cancelled.reason = Some(verb.reason.as_str().to_owned());
    work.record(order, ORDER_CANCELLED, verb);
    Ok(Done::ok())
}

fn illegal_step(from: Status, to: Status) -> Refusal {
    let message = format!("an order that is {} cannot become {}", from.as_str(), to.as_str());
    Refusal::new(409, "illegal_step", message)
}

#[cfg(test)]
mod tests;
