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

use std::collections::BTreeSet;

use brigade_contracts::{
    Address, Currency, MAX_ITEMS, Money, Part, Refusal, Timestamp, Token,
    cart::Payment,
    event::{
        self, ORDER_ACCEPTED, ORDER_CANCELLED, ORDER_COMPLETED, ORDER_PLACED, ORDER_PREPARING,
        ORDER_READY, ORDER_SERVED,
    },
    list::ActiveRow,
    order::{
        ActiveCore, ActivePayment, Change, ChangeKind, Core, Item, Nothing, Payments, Place,
        Status, Verb,
    },
};
use serde_json::value::RawValue;

use super::{Decided, Head, Result, State, already_exists, not_found, raw, record, too_large};

/// An order as SQL keeps it.
#[derive(Clone, Debug, PartialEq)]
pub struct Order {
    pub head: Head,
    pub status: Status,
    pub currency: Currency,
    pub cart_id: Option<Token>,
    pub table_id: Option<Token>,
    pub turn_id: Option<Token>,
    pub items: Vec<Item>,
    pub total: Money,
    pub paid: Money,
    pub refunded: Money,
    pub paid_at: Option<Timestamp>,
    pub payments: Vec<Payment>,
    pub created_at: Timestamp,
    /// Why it ended, where somebody said so.
    pub reason: Option<String>,
}

pub(super) fn decide(
    address: &Address,
    order: Option<&Order>,
    verb: &Verb,
    now: Timestamp,
) -> Result<Decided> {
    if let Verb::Place(place) = verb {
        return match order {
            None => placed(address, place, now),
            Some(_) => Err(already_exists()),
        };
    }
    let order = order.ok_or_else(not_found)?;
    let step = |to, kind| order.step(to, kind, now);
    match verb {
        Verb::Place(_) => unreachable!("decided above"),
        Verb::Accept(Nothing {}) => step(Status::Accepted, ORDER_ACCEPTED),
        Verb::Prepare(Nothing {}) => step(Status::Preparing, ORDER_PREPARING),
        Verb::Ready(Nothing {}) => step(Status::Ready, ORDER_READY),
        Verb::Serve(Nothing {}) => step(Status::Served, ORDER_SERVED),
        Verb::Complete(Nothing {}) => step(Status::Completed, ORDER_COMPLETED),
        Verb::Cancel(cancel) => order.cancel(cancel.reason.as_str(), cancel, now),
    }
}

fn placed(address: &Address, place: &Place, now: Timestamp) -> Result<Decided> {
    if place.table_id.is_some() || place.turn_id.is_some() {
        return Err(Refusal::new(404, "table_not_found", "there is no such table"));
    }
    if place.items.is_empty() {
        return Err(Refusal::new(422, "order_empty", "an order needs an item"));
    }
    if place.items.len() > MAX_ITEMS {
        return Err(too_large("an order has at most 200 items"));
    }
    let mut ids = BTreeSet::new();
    let mut total = Money::ZERO;
    let mut items = Vec::with_capacity(place.items.len());
    for item in &place.items {
        if item.item_id.as_ref().is_some_and(|id| !ids.insert(id)) {
            return Err(Refusal::new(422, "item_repeated", "two items have the same item_id"));
        }
        total = total.plus(item.unit_price.times(item.quantity)?)?;
        items.push(Item {
            item_id: item.item_id.clone(),
            sku: item.sku.clone(),
            name: item.name.clone(),
            unit_price: item.unit_price,
            quantity: item.quantity,
            note: item.note.clone(),
        });
    }
    let order = Order {
        head: Head::unborn(address.clone(), now),
        status: Status::Placed,
        currency: place.currency,
        cart_id: None,
        table_id: None,
        turn_id: None,
        items,
        total,
        paid: Money::ZERO,
        refunded: Money::ZERO,
        paid_at: None,
        payments: Vec::new(),
        created_at: now,
        reason: None,
    };
    Ok(record(State::Order(order), ORDER_PLACED, place, 201, now))
}

impl Order {
    /// One step forward, from the status right before `to`.
    fn step(&self, to: Status, kind: event::Kind, now: Timestamp) -> Result<Decided> {
        if self.status.next() != Some(to) {
            return Err(self.illegal_step(to));
        }
        let order = Self { status: to, ..self.clone() };
        Ok(record(State::Order(order), kind, &Nothing {}, 200, now))
    }

    fn cancel(
        &self,
        reason: &str,
        said: &brigade_contracts::cart::Reason,
        now: Timestamp,
    ) -> Result<Decided> {
        if self.status >= Status::Served {
            return Err(self.illegal_step(Status::Cancelled));
        }
        if self.paid > Money::ZERO {
            return Err(Refusal::new(409, "order_paid", "something is paid: refund it instead"));
        }
        let order =
            Self { status: Status::Cancelled, reason: Some(reason.to_owned()), ..self.clone() };
        Ok(record(State::Order(order), ORDER_CANCELLED, said, 200, now))
    }

    fn illegal_step(&self, to: Status) -> Refusal {
        let message =
            format!("an order that is {} cannot become {}", self.status.as_str(), to.as_str());
        Refusal::new(409, "illegal_step", message)
    }

    /// See [`State::part`].
    pub(super) fn part(&self, part: Part) -> Box<RawValue> {
        let (version, at) = self.head.part(part);
        match part {
            Part::Core => raw(&Core {
                version,
                at,
                status: self.status,
                currency: self.currency,
                cart_id: self.cart_id.clone(),
                table_id: self.table_id.clone(),
                turn_id: self.turn_id.clone(),
                items: self.items.clone(),
                total: self.total,
                created_at: self.created_at,
            }),
            Part::Payments => raw(&Payments {
                version,
                at,
                currency: self.currency,
                paid: self.paid,
                refunded: self.refunded,
                paid_at: self.paid_at,
                payments: self.payments.clone(),
            }),
        }
    }

    /// Its row in the active list, with what the newest change of the core was. What is shown
    /// again later cannot tell more than this: every change of an order's core is one of status.
    #[must_use]
    pub fn active_core(&self) -> Box<RawValue> {
        raw(&self.listed())
    }

    /// Its row as queries show it.
    #[must_use]
    pub fn active_row(&self) -> Box<RawValue> {
        let (version, at) = self.head.part(Part::Payments);
        let payment = ActivePayment { version, at, paid: self.paid, paid_at: self.paid_at };
        raw(&ActiveRow { core: self.listed(), payment, due: self.total.less(self.paid) })
    }

    fn listed(&self) -> ActiveCore {
        let (version, at) = self.head.part(Part::Core);
        let (kind, fields) = match self.status {
            Status::Placed => (ChangeKind::Added, vec![]),
            Status::Completed | Status::Cancelled => {
                (ChangeKind::Removed, vec!["status".to_owned()])
            }
            _ => (ChangeKind::Updated, vec!["status".to_owned()]),
        };
        let ended = || self.reason.clone().unwrap_or_else(|| self.status.as_str().to_owned());
        let reason = (kind == ChangeKind::Removed).then(ended);
        ActiveCore {
            version,
            at,
            order: self.head.address.id.clone(),
            status: self.status,
            currency: self.currency,
            table_id: self.table_id.clone(),
            turn_id: self.turn_id.clone(),
            items: self.items.clone(),
            total: self.total,
            created_at: self.created_at,
            change: Change { kind, fields, reason },
        }
    }
}

/// The payment row of the active list, made of the part `payments` that an event carries.
#[must_use]
pub fn active_payment(payments: &Payments) -> Box<RawValue> {
    let Payments { version, at, paid, paid_at, .. } = *payments;
    raw(&ActivePayment { version, at, paid, paid_at })
}

#[cfg(test)]
mod tests;
