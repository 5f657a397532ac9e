//! The target of a payment: the cart or the order that its money is for.

use brigade_contracts::{
    Aggregate, Currency, Money, Token,
    cart::Status,
    event::{CART_PAYMENT_CHANGED, ORDER_PAYMENT_CHANGED},
    order,
    payment::{self, RefundTask, Target},
};
use serde_json::json;

use crate::{
    changes::Fact,
    lock,
    order::record_paid,
    outcome::Result,
    state::{
        Cart, Lock, Order, Payment,
        entry::{self, Entry},
    },
    unit_of_work::{Handle, UnitOfWork},
};

#[derive(Clone, Copy)]
pub(super) enum PaymentTarget {
    /// With the live lock over it, if that was looked up.
    Cart { cart: Handle<Cart>, lock: Option<Handle<Lock>> },
    /// A cart that was checked out is still known by what was in it.
    Order { order: Handle<Order>, was: Option<Handle<Cart>> },
}

impl PaymentTarget {
    /// Loads the target, which has to exist.
    pub fn load(work: &mut UnitOfWork<'_>, payment: Handle<Payment>) -> Result<Self> {
        let (order_id, was) = match work[payment].target.clone() {
            Target::Order(id) => (id, None),
            Target::Cart(id) => {
                let cart = work.existing::<Cart>(&work.address(Aggregate::Cart, &id))?;
                match &work[cart] {
                    Cart { status: Status::CheckedOut, order_id: Some(id), .. } => {
                        (id.clone(), Some(cart))
                    }
                    _ => return Ok(Self::Cart { cart, lock: None }),
                }
            }
        };
        let order = work.existing(&work.address(Aggregate::Order, &order_id))?;
        Ok(Self::Order { order, was })
    }

    /// Loads the target, and the live lock over an open cart. A rule does so before it changes
    /// anything, since a lock that is past its deadline is ended by it.
    pub fn load_locked(work: &mut UnitOfWork<'_>, payment: Handle<Payment>) -> Result<Self> {
        let target = Self::load(work, payment)?;
        let Self::Cart { cart, .. } = target else { return Ok(target) };
        Ok(Self::Cart { cart, lock: live_lock(work, cart)? })
    }

    fn currency(self, work: &UnitOfWork<'_>) -> Currency {
        match self {
            Self::Cart { cart, .. } => work[cart].currency,
            Self::Order { order, .. } => work[order].currency,
        }
    }

    /// Returns how much of a capture in this currency can be applied: nothing, unless the payment
    /// is open and the target is what was paid for; `None`, if the target is in another currency.
    pub fn due(
        self,
        work: &UnitOfWork<'_>,
        payment: &Payment,
        currency: Currency,
    ) -> Option<Money> {
        if currency != self.currency(work) {
            return None;
        }
        let due = match self {
            _ if !payment.status.is_open() => None,
            Self::Cart { cart, lock } => {
                let cart = Some(&work[cart]).filter(|cart| cart.status == Status::Open);
                let held = lock.is_some_and(|lock| payment.is_under(&work[lock]));
                cart.filter(|cart| held || payment.is_for(cart)).map(Cart::due)
            }
            // An order is about what its cart held when it was checked out.
            Self::Order { order, was } => Some(&work[order])
                .filter(|order| order.status != order::Status::Cancelled)
                .filter(|_| was.is_none_or(|cart| payment.is_for(&work[cart])))
                .map(Order::due),
        };
        Some(due.unwrap_or_default())
    }

    /// Records a changed payment, and what that changes in the target. The lock goes with the last
    /// payment that is open under it.
    pub fn record_payment(
        self,
        work: &mut UnitOfWork<'_>,
        payment: Handle<Payment>,
        change: PaymentChange,
    ) -> Result<()> {
        let (applied, refunded) = (change.applied, change.refunded);
        change.record(work, payment);
        let Payment { head, status, currency, .. } = &work[payment];
        let data = json!({ "payment": head.address.id, "status": status, "applied": applied });
        let (entry, status) = (work[payment].entry(), *status);
        let is_own_currency = *currency == self.currency(work);
        let refunded = if is_own_currency { refunded } else { Money::ZERO };
        match self {
            Self::Cart { cart, lock } => {
                let changed = &mut work[cart];
                changed.credit(entry.payment.user.as_ref(), applied)?;
                put(&mut changed.payments, entry, is_own_currency);
                changed.refunded = changed.refunded.plus(refunded)?;
                changed.paid = changed.paid.plus(applied)?;
                work.record(cart, Fact::new(CART_PAYMENT_CHANGED, &data));
                let lock = lock.filter(|lock| work[payment].is_under(&work[*lock]));
                let token = work[payment].token;
                if let Some(lock) = lock.filter(|_| !work[cart].has_open_payment(token)) {
                    work.change_lock(lock, |lock| lock.release(reason(status)))?;
                }
            }
            Self::Order { order, .. } => {
                let changed = &mut work[order];
                put(&mut changed.payments, entry, is_own_currency);
                changed.refunded = changed.refunded.plus(refunded)?;
                changed.paid = changed.paid.plus(applied)?;
                work.record(order, Fact::new(ORDER_PAYMENT_CHANGED, &data));
                if applied > Money::ZERO {
                    record_paid(work, order);
                }
            }
        }
        Ok(())
    }
}

/// Returns the live lock over a cart, while it is open.
pub(super) fn live_lock(
    work: &mut UnitOfWork<'_>,
    cart: Handle<Cart>,
) -> Result<Option<Handle<Lock>>> {
    if work[cart].status == Status::Open { lock::live_over(work, cart) } else { Ok(None) }
}

/// The record of a change of a payment.
#[derive(Default)]
pub(super) struct PaymentChange {
    /// The events of the payment.
    pub facts: Vec<Fact>,
    /// The refund tasks that are new or changed.
    pub tasks: Vec<RefundTask>,
    /// The amount that was paid with it.
    pub applied: Money,
    /// The amount that went back.
    pub refunded: Money,
}

impl PaymentChange {
    pub fn of(fact: Fact) -> Self {
        Self { facts: vec![fact], ..Self::default() }
    }

    /// Records the change in the payment itself.
    pub fn record(self, work: &mut UnitOfWork<'_>, payment: Handle<Payment>) {
        for fact in self.facts {
            work.record(payment, fact);
        }
        for task in self.tasks {
            work.record_refund_task(task);
        }
    }
}

impl Payment {
    /// Returns whether it was made under this lock.
    pub(super) fn is_under(&self, lock: &Lock) -> bool {
        self.token == Some(lock.token)
    }

    /// Returns whether it was made for what a cart holds, or held when it was checked out.
    fn is_for(&self, cart: &Cart) -> bool {
        self.fingerprint.as_ref() == Some(&cart.fingerprint())
    }
}

impl Cart {
    /// Credits a member with what it has paid; one who paid as the session is the owner by now.
    fn credit(&mut self, user: Option<&Token>, applied: Money) -> Result<()> {
        let Some(user) = user else { return Ok(()) };
        let claimed = !self.is_member(user) && self.session.as_ref() == Some(user);
        let user = if claimed { &self.owner } else { user };
        if let Some(member) = self.members.iter_mut().find(|member| member.user == *user) {
            member.paid = member.paid.plus(applied)?;
        }
        Ok(())
    }
}

/// Returns why the lock goes with a payment.
fn reason(status: payment::Status) -> &'static str {
    match status {
        payment::Status::LateCaptured => payment::Status::Captured.as_str(),
        status => status.as_str(),
    }
}

/// Puts the entry of a payment in place. Money of another currency than the target's is shown as
/// it was asked for, and never summed.
fn put(entries: &mut Vec<Entry>, mut entry: Entry, is_own_currency: bool) {
    if !is_own_currency {
        let known = entries.iter().find(|known| known.payment.id == entry.payment.id);
        entry.payment.amount = known.map_or(Money::ZERO, |known| known.payment.amount);
        entry.payment.refunded_amount = Money::ZERO;
    }
    entry::put(entries, entry);
}
