//! The target of a payment: the cart or the order that its money is for.

use brigade_contracts::{
    Aggregate, Currency, Money, Token,
    cart::Status,
    event::{CART_PAYMENT_CHANGED, ORDER_PAYMENT_CHANGED},
    order,
    payment::{self, Target},
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
    /// With the live lock that the payment was made under, if it was looked up.
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

    /// Loads the target, and the lock that the payment was made under. A rule does so before it
    /// changes anything, since a lock that is past its deadline is ended by it.
    pub fn load_locked(work: &mut UnitOfWork<'_>, payment: Handle<Payment>) -> Result<Self> {
        match Self::load(work, payment)? {
            Self::Cart { cart, .. } => Ok(Self::Cart { cart, lock: lock_of(work, payment, cart)? }),
            order @ Self::Order { .. } => Ok(order),
        }
    }

    pub fn currency(self, work: &UnitOfWork<'_>) -> Currency {
        match self {
            Self::Cart { cart, .. } => work[cart].currency,
            Self::Order { order, .. } => work[order].currency,
        }
    }

    /// Returns how much of a capture can be applied: nothing, unless the target is what was paid
    /// for.
    pub fn due(self, work: &UnitOfWork<'_>, payment: &Payment) -> Money {
        match self {
            Self::Cart { cart, lock } => {
                let cart = &work[cart];
                let open = cart.status == Status::Open;
                let applies = open && (lock.is_some() || is_paid_for(payment, cart));
                if applies { cart.due() } else { Money::ZERO }
            }
            Self::Order { order, was } => {
                let order = &work[order];
                let cancelled = order.status == order::Status::Cancelled;
                // An order is about what its cart held when it was checked out.
                let applies = was.is_none_or(|cart| is_paid_for(payment, &work[cart]));
                if applies && !cancelled { order.due() } else { Money::ZERO }
            }
        }
    }

    /// Records a changed payment in the target. `applied` was paid with it, `refunded` went back.
    /// The lock goes with the last payment that is open under it.
    pub fn record(
        self,
        work: &mut UnitOfWork<'_>,
        payment: Handle<Payment>,
        applied: Money,
        refunded: Money,
    ) -> Result<()> {
        let Payment { head, status, currency, token, .. } = &work[payment];
        let data = json!({ "payment": head.address.id, "status": status, "applied": applied });
        let (entry, status, token) = (work[payment].entry(), *status, *token);
        let is_own_currency = *currency == self.currency(work);
        let refunded = if is_own_currency { refunded } else { Money::ZERO };
        match self {
            Self::Cart { cart, lock } => {
                let changed = &mut work[cart];
                credit(changed, entry.payment.user.as_ref(), applied)?;
                put(&mut changed.payments, entry, is_own_currency);
                changed.refunded = changed.refunded.plus(refunded)?;
                changed.paid = changed.paid.plus(applied)?;
                work.record(cart, Fact::new(CART_PAYMENT_CHANGED, &data));
                if let Some(lock) = lock.filter(|_| !work[cart].has_open_payment(token)) {
                    lock::change(work, lock, |lock| lock.release(reason(status)))?;
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

/// Returns the live lock that a payment was made under, if the cart is still open.
pub(super) fn lock_of(
    work: &mut UnitOfWork<'_>,
    payment: Handle<Payment>,
    cart: Handle<Cart>,
) -> Result<Option<Handle<Lock>>> {
    if work[cart].status != Status::Open {
        return Ok(None);
    }
    let lock = lock::live_over(work, cart)?;
    Ok(lock.filter(|lock| Some(work[*lock].token) == work[payment].token))
}

/// Returns why the lock is released with a payment.
fn reason(status: payment::Status) -> &'static str {
    match status {
        payment::Status::LateCaptured => payment::Status::Captured.as_str(),
        status => status.as_str(),
    }
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
