//! The target of a payment: the cart or the order that its money is for.

use brigade_contracts::{
    Aggregate, Currency, Money, Token,
    cart::Status,
    event::{CART_PAYMENT_CHANGED, ORDER_PAYMENT_CHANGED},
    order,
    payment::Target,
};
use serde_json::json;

use crate::{
    lock,
    order::record_paid,
    outcome::Result,
    refusal::not_found,
    state::{
        Cart, Lock, Order, Payment,
        entry::{self, Entry},
    },
    unit_of_work::{Handle, UnitOfWork},
};

/// A cart, or an order; a cart that was checked out is still known by what was in it.
#[derive(Clone, Copy)]
pub(super) enum PaymentTarget {
    Cart(Handle<Cart>),
    Order { order: Handle<Order>, was: Option<Handle<Cart>> },
}

impl PaymentTarget {
    /// Loads the target, which has to exist.
    pub fn of(work: &mut UnitOfWork<'_>, payment: Handle<Payment>) -> Result<Self> {
        let (order_id, was) = match work[payment].target.clone() {
            Target::Order(id) => (id, None),
            Target::Cart(id) => {
                let cart = work.existing::<Cart>(&work.address(Aggregate::Cart, &id))?;
                match &work[cart] {
                    Cart { status: Status::CheckedOut, order_id: Some(id), .. } => {
                        (id.clone(), Some(cart))
                    }
                    _ => return Ok(Self::Cart(cart)),
                }
            }
        };
        let order = work.existing(&work.address(Aggregate::Order, &order_id))?;
        Ok(Self::Order { order, was })
    }

    pub fn open_cart(self, work: &UnitOfWork<'_>) -> Option<Handle<Cart>> {
        match self {
            Self::Cart(cart) => Some(cart).filter(|cart| work[*cart].status == Status::Open),
            Self::Order { .. } => None,
        }
    }

    pub fn currency(self, work: &UnitOfWork<'_>) -> Currency {
        match self {
            Self::Cart(cart) => work[cart].currency,
            Self::Order { order, .. } => work[order].currency,
        }
    }

    /// Returns the live lock over an open cart. Commands call it before they change anything, since
    /// it ends a lock that is past its deadline.
    pub fn live_lock(self, work: &mut UnitOfWork<'_>) -> Result<Option<Handle<Lock>>> {
        match self.open_cart(work) {
            Some(cart) => lock::live_over(work, cart),
            None => Ok(None),
        }
    }

    /// Returns the live lock, if the payment was made under it.
    pub fn lock_of(
        self,
        work: &mut UnitOfWork<'_>,
        payment: Handle<Payment>,
    ) -> Result<Option<Handle<Lock>>> {
        let lock = self.live_lock(work)?;
        Ok(lock.filter(|lock| Some(work[*lock].token) == work[payment].token))
    }

    /// Returns how much of a capture can be applied: nothing, unless the target is what was paid
    /// for.
    pub fn due(self, work: &mut UnitOfWork<'_>, payment: Handle<Payment>) -> Result<Money> {
        if let Some(cart) = self.open_cart(work) {
            let held = self.lock_of(work, payment)?.is_some();
            let applies = held || is_paid_for(&work[payment], &work[cart]);
            return Ok(if applies { work[cart].due() } else { Money::ZERO });
        }
        let Self::Order { order, was } = self else { return Ok(Money::ZERO) };
        let cancelled = work[order].status == order::Status::Cancelled;
        // An order is about what its cart held when it was checked out.
        if cancelled || was.is_some_and(|cart| !is_paid_for(&work[payment], &work[cart])) {
            return Ok(Money::ZERO);
        }
        Ok(work[order].due())
    }

    /// Records a changed payment in the target. `applied` was paid with it, `refunded` went back.
    pub fn update(
        self,
        work: &mut UnitOfWork<'_>,
        payment: Handle<Payment>,
        applied: Money,
        refunded: Money,
    ) -> Result<()> {
        let Payment { head, status, currency, .. } = &work[payment];
        let data = json!({ "payment": head.address.id, "status": status, "applied": applied });
        let (entry, currency) = (work[payment].entry(), *currency);
        match self {
            Self::Cart(cart) => {
                let changed = &mut work[cart];
                let is_own = currency == changed.currency;
                credit(changed, entry.payment.user.as_ref(), applied)?;
                put(&mut changed.payments, entry, is_own);
                if is_own {
                    changed.refunded = changed.refunded.plus(refunded)?;
                }
                changed.paid = changed.paid.plus(applied)?;
                work.record(cart, CART_PAYMENT_CHANGED, &data);
            }
            Self::Order { order, .. } => {
                let changed = &mut work[order];
                let is_own = currency == changed.currency;
                put(&mut changed.payments, entry, is_own);
                if is_own {
                    changed.refunded = changed.refunded.plus(refunded)?;
                }
                changed.paid = changed.paid.plus(applied)?;
                work.record(order, ORDER_PAYMENT_CHANGED, &data);
                if applied > Money::ZERO {
                    record_paid(work, order);
                }
            }
        }
        Ok(())
    }

    /// Releases the lock with the last payment that was open under it.
    pub fn release_if_last(
        self,
        work: &mut UnitOfWork<'_>,
        payment: Handle<Payment>,
        reason: &str,
    ) -> Result<()> {
        let Some(lock) = self.lock_of(work, payment)? else { return Ok(()) };
        let token = work[payment].token;
        if self.open_cart(work).is_some_and(|cart| !work[cart].has_open_payment(token)) {
            lock::release(work, lock, reason)?;
        }
        Ok(())
    }
}

/// Returns the live lock of the payment's cart, if the payment was made under it. An order, which
/// has no lock, is not loaded.
pub(super) fn lock_of(
    work: &mut UnitOfWork<'_>,
    payment: Handle<Payment>,
) -> Result<Option<Handle<Lock>>> {
    let Target::Cart(id) = work[payment].target.clone() else { return Ok(None) };
    let address = work.address(Aggregate::Cart, &id);
    let cart = work.load(&address)?.ok_or_else(not_found)?;
    PaymentTarget::Cart(cart).lock_of(work, payment)
}

/// Returns whether a payment was made for what its cart holds, or held when it was checked out.
fn is_paid_for(payment: &Payment, cart: &Cart) -> bool {
    payment.fingerprint.as_ref() == Some(&cart.fingerprint())
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

/// Credits a member with what it has paid; one who paid as the session is the owner by now.
fn credit(cart: &mut Cart, user: Option<&Token>, applied: Money) -> Result<()> {
    let Some(user) = user else { return Ok(()) };
    let claimed = !cart.is_member(user) && cart.session.as_ref() == Some(user);
    let user = if claimed { &cart.owner } else { user };
    if let Some(member) = cart.members.iter_mut().find(|member| member.user == *user) {
        member.paid = member.paid.plus(applied)?;
    }
    Ok(())
}
