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

use std::collections::BTreeSet;

use brigade_contracts::{
    Address, Currency, MAX_ITEMS, Money, Part, Refusal, Timestamp, Token,
    event::{
        self, ORDER_ACCEPTED, ORDER_CANCELLED, ORDER_COMPLETED, ORDER_PAID, ORDER_PLACED,
        ORDER_PREPARING, ORDER_READY, ORDER_SERVED,
    },
    order::{
        ActiveCore, ActivePayment, Change, ChangeKind, Core, Item, Payments, Place, Status, Verb,
    },
    verb::{Nothing, Reason},
};
use serde_json::{json, value::RawValue};

use super::{
    Cart, Entry, Head, MOST_CONTENTS, State, already_exists, cart,
    draft::{Done, Draft, Result},
    not_found, payment, raw, table, too_large,
};

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
    /// Its own, and those of the cart that it was.
    pub payments: Vec<Entry>,
    pub created_at: Timestamp,
    /// Why it ended, where somebody said so.
    pub reason: Option<String>,
}

pub(super) fn decide(draft: &mut Draft<'_>, address: &Address, verb: &Verb) -> Result<Done> {
    let order = draft.order(address)?;
    if let Verb::Place(place) = verb {
        return match order {
            None => placed(draft, address, place),
            Some(_) => Err(already_exists().into()),
        };
    }
    let order = order.ok_or_else(not_found)?;
    let (to, kind) = match verb {
        Verb::Place(_) => unreachable!("decided above"),
        Verb::Accept(Nothing {}) => (Status::Accepted, ORDER_ACCEPTED),
        Verb::Prepare(Nothing {}) => (Status::Preparing, ORDER_PREPARING),
        Verb::Ready(Nothing {}) => (Status::Ready, ORDER_READY),
        Verb::Serve(Nothing {}) => (Status::Served, ORDER_SERVED),
        Verb::Complete(Nothing {}) => (Status::Completed, ORDER_COMPLETED),
        Verb::Cancel(cancel) => return order.cancel(draft, cancel),
    };
    order.step(draft, to, kind)
}

fn placed(draft: &mut Draft<'_>, address: &Address, place: &Place) -> Result<Done> {
    let seat = table::seat(draft, place.table_id.as_ref(), place.turn_id.as_ref())?;
    if place.items.is_empty() {
        return Err(Refusal::new(422, "order_empty", "an order needs an item").into());
    }
    if place.items.len() > MAX_ITEMS {
        return Err(too_large("an order has at most 200 items").into());
    }
    let mut ids = BTreeSet::new();
    let mut total = Money::ZERO;
    let mut items = Vec::with_capacity(place.items.len());
    for item in &place.items {
        if item.item_id.as_ref().is_some_and(|id| !ids.insert(id)) {
            let message = "two items have the same item_id";
            return Err(Refusal::new(422, "item_repeated", message).into());
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
    let order = Order::new(address.clone(), place.currency, items, total, draft.now).at(seat);
    if order.part(Part::Core).get().len() > MOST_CONTENTS {
        return Err(too_large("an order has at most 64 KiB").into());
    }
    let place =
        Place { table_id: order.table_id.clone(), turn_id: order.turn_id.clone(), ..place.clone() };
    draft.record(order, ORDER_PLACED, &place);
    draft.paid_if_nothing_is_due(address);
    Ok(Done::created())
}

impl Order {
    fn new(
        address: Address,
        currency: Currency,
        items: Vec<Item>,
        total: Money,
        now: Timestamp,
    ) -> Self {
        Self {
            head: Head::unborn(address, now),
            status: Status::Placed,
            currency,
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
        }
    }

    /// At a table, of a turn.
    pub(super) fn at(self, seat: Option<(Token, Token)>) -> Self {
        let (table_id, turn_id) = seat.unzip();
        Self { table_id, turn_id, ..self }
    }

    /// What a cart becomes: its items, and all that is paid or being paid.
    pub(super) fn of_cart(address: Address, cart: &Cart, now: Timestamp) -> Result<Self> {
        let item = |item: &brigade_contracts::cart::Item| Item {
            item_id: Some(item.item_id.clone()),
            sku: item.sku.clone(),
            name: item.name.clone(),
            unit_price: item.unit_price,
            quantity: item.quantity,
            note: None,
        };
        let items = cart.items.iter().map(item).collect();
        Ok(Self {
            cart_id: Some(cart.head.address.id.clone()),
            paid: cart.paid,
            refunded: cart.refunded,
            payments: cart.payments.clone(),
            ..Self::new(address, cart.currency, items, cart.total()?, now)
        })
    }

    /// Records an order that was a cart, paid or not.
    pub(super) fn checked_out(self, draft: &mut Draft<'_>) {
        let placed = json!({
            "cart_id": self.cart_id, "table_id": self.table_id, "turn_id": self.turn_id,
            "currency": self.currency, "items": self.items,
        });
        let address = self.head.address.clone();
        draft.record(self, ORDER_PLACED, &placed);
        draft.paid_if_nothing_is_due(&address);
    }

    #[must_use]
    pub fn due(&self) -> Money {
        self.total.less(self.paid)
    }

    /// Neither paid nor cancelled.
    #[must_use]
    pub fn is_unpaid(&self) -> bool {
        self.paid_at.is_none() && self.status != Status::Cancelled
    }

    #[must_use]
    pub fn has_open_payment(&self) -> bool {
        payment::open(&self.payments).next().is_some()
    }

    /// One step forward, from the status right before `to`.
    fn step(mut self, draft: &mut Draft<'_>, to: Status, kind: event::Kind) -> Result<Done> {
        if self.status.next() != Some(to) {
            return Err(self.illegal_step(to).into());
        }
        self.status = to;
        draft.record(self, kind, &Nothing {});
        Ok(Done::ok())
    }

    fn cancel(mut self, draft: &mut Draft<'_>, said: &Reason) -> Result<Done> {
        if self.status >= Status::Served {
            return Err(self.illegal_step(Status::Cancelled).into());
        }
        if self.paid > Money::ZERO {
            let message = "something is paid: refund it instead";
            return Err(Refusal::new(409, "order_paid", message).into());
        }
        if self.has_open_payment() {
            return Err(cart::payment_open().into());
        }
        self.status = Status::Cancelled;
        self.reason = Some(said.reason.as_str().to_owned());
        draft.record(self, ORDER_CANCELLED, said);
        Ok(Done::ok())
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
                payments: payment::shown(&self.payments),
            }),
            Part::Auth | Part::Subscription | Part::Roles => raw(&()),
        }
    }

    /// Its row in the active list, with what the newest change of the core was. What is shown
    /// again later cannot tell more than this: every change of an order's core is one of status.
    #[must_use]
    pub fn active_core(&self) -> Box<RawValue> {
        raw(&self.listed())
    }

    /// Its payment row in the active list.
    #[must_use]
    pub fn active_payment(&self) -> Box<RawValue> {
        let (version, at) = self.head.part(Part::Payments);
        raw(&ActivePayment { version, at, paid: self.paid, paid_at: self.paid_at })
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

impl Draft<'_> {
    /// An order is paid once: with the change after which nothing is due.
    pub(super) fn paid_if_nothing_is_due(&mut self, address: &Address) {
        let Some(mut order) = self.changes.states.get(address).and_then(State::order).cloned()
        else {
            return;
        };
        if order.due() == Money::ZERO && order.paid_at.is_none() {
            order.paid_at = Some(self.now);
            let paid = json!({ "paid": order.paid });
            self.record(order, ORDER_PAID, &paid);
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
