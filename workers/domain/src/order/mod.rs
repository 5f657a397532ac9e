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
    changes::Fact,
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
        Verb::Cancel(reason) => {
            let order = work.existing(address)?;
            return work.change(order, |order| cancel(order, reason));
        }
        Verb::Accept(Nothing {}) => (Status::Accepted, ORDER_ACCEPTED),
        Verb::Prepare(Nothing {}) => (Status::Preparing, ORDER_PREPARING),
        Verb::Ready(Nothing {}) => (Status::Ready, ORDER_READY),
        Verb::Serve(Nothing {}) => (Status::Served, ORDER_SERVED),
        Verb::Complete(Nothing {}) => (Status::Completed, ORDER_COMPLETED),
    };
    let order = work.existing(address)?;
    work.change(order, |order| step(order, to, kind))
}

/// Takes an order one step forward, from the status right before `to`.
fn step(order: &mut Order, to: Status, kind: EventKind) -> std::result::Result<Fact, Refusal> {
    if order.status.next() != Some(to) {
        return Err(illegal_step(order.status, to));
    }
    order.status = to;
    Ok(Fact::new(kind, &Nothing {}))
}

fn cancel(order: &mut Order, verb: &Reason) -> std::result::Result<Fact, Refusal> {
    if order.status >= Status::Served {
        return Err(illegal_step(order.status, Status::Cancelled));
    }
    if order.paid > Money::ZERO {
        let message = "something is paid: refund it instead";
        return Err(Refusal::new(409, "order_paid", message));
    }
    if order.has_open_payment() {
        return Err(payment_open());
    }
    order.status = Status::Cancelled;
    order.reason = Some(verb.reason.as_str().to_owned());
    Ok(Fact::new(ORDER_CANCELLED, verb))
}

fn illegal_step(from: Status, to: Status) -> Refusal {
    let message = format!("an order that is {} cannot become {}", from.as_str(), to.as_str());
    Refusal::new(409, "illegal_step", message)
}

#[cfg(test)]
mod tests;
