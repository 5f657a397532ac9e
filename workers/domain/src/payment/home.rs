//! Where the money of a payment belongs.

use brigade_contracts::{
    Address, Aggregate, Currency, Money, Token,
    cart::Status,
    event::{CART_PAYMENT_CHANGED, ORDER_PAYMENT_CHANGED},
    order,
    payment::Target,
};
use serde_json::json;

use super::{
    super::state::entry,
    super::{
        Cart, Lock, Order, order::record_paid, outcome::Result, refusal::not_found,
        unit_of_work::UnitOfWork,
    },
    Entry, Payment,
};

/// A cart, or an order; a cart that was checked out is still known by what was in it.
pub(super) enum Home {
    Cart(Address),
    Order { order: Address, was: Option<Address> },
}

impl Home {
    pub fn of(draft: &mut UnitOfWork<'_>, target: &Target) -> Result<Self> {
        let order = |draft: &UnitOfWork<'_>, id| draft.address(Aggregate::Order, id);
        match target {
            Target::Order(id) => Ok(Self::Order { order: order(draft, id), was: None }),
            Target::Cart(id) => {
                let address = draft.address(Aggregate::Cart, id);
                let cart = draft.cart(&address)?.ok_or_else(not_found)?;
                Ok(match (cart.status, cart.order_id) {
                    (Status::CheckedOut, Some(id)) => {
                        Self::Order { order: order(draft, &id), was: Some(address) }
                    }
                    _ => Self::Cart(address),
                })
            }
        }
    }

    /// Decides about the lock of an open cart, before anything is changed.
    pub fn settle(&self, draft: &mut UnitOfWork<'_>) -> Result<Option<Lock>> {
        match self.open_cart(draft)? {
            Some(cart) => draft.live_lock(&cart.owner),
            None => Ok(None),
        }
    }

    /// The live lock, if the payment was made under it.
    pub fn lock_of(&self, draft: &mut UnitOfWork<'_>, payment: &Payment) -> Result<Option<Lock>> {
        Ok(self.settle(draft)?.filter(|lock| Some(lock.token) == payment.token))
    }

    pub fn open_cart(&self, draft: &mut UnitOfWork<'_>) -> Result<Option<Cart>> {
        match self {
            Self::Cart(address) => {
                Ok(draft.cart(address)?.filter(|cart| cart.status == Status::Open))
            }
            Self::Order { .. } => Ok(None),
        }
    }

    fn order(&self, draft: &mut UnitOfWork<'_>) -> Result<Option<Order>> {
        match self {
            Self::Order { order, .. } => draft.order(order),
            Self::Cart(_) => Ok(None),
        }
    }

    pub fn currency(&self, draft: &mut UnitOfWork<'_>) -> Result<Currency> {
        match self {
            Self::Cart(address) => Ok(draft.cart(address)?.ok_or_else(not_found)?.currency),
            Self::Order { order, .. } => Ok(draft.order(order)?.ok_or_else(not_found)?.currency),
        }
    }

    /// What can be applied of a capture: nothing, where this is not what was paid for.
    pub fn due(&self, draft: &mut UnitOfWork<'_>, payment: &Payment) -> Result<Money> {
        let unchanged = |cart: &Cart| payment.fingerprint.as_ref() == Some(&cart.fingerprint());
        if let Some(cart) = self.open_cart(draft)? {
            let held = self.lock_of(draft, payment)?.is_some();
            return Ok(if held || unchanged(&cart) { cart.due() } else { Money::ZERO });
        }
        let Some(order) = self.order(draft)? else { return Ok(Money::ZERO) };
        if order.status == order::Status::Cancelled {
            return Ok(Money::ZERO);
        }
        // What a cart held when it was checked out is what the order is about.
        if let Self::Order { was: Some(cart), .. } = self
            && !draft.cart(cart)?.is_some_and(|cart| unchanged(&cart))
        {
            return Ok(Money::ZERO);
        }
        Ok(order.due())
    }

    /// Shows a changed payment in its cart or order, of which `applied` was paid with it and
    /// `refunded` went back.
    pub fn show(
        &self,
        draft: &mut UnitOfWork<'_>,
        payment: &Payment,
        applied: Money,
        refunded: Money,
    ) -> Result<()> {
        let data = json!({
            "payment": payment.head.address.id, "status": payment.status, "applied": applied,
        });
        match self {
            Self::Cart(address) => {
                let mut cart = draft.cart(address)?.ok_or_else(not_found)?;
                let refunded = put(&mut cart.payments, payment, cart.currency, refunded);
                cart.refunded = cart.refunded.plus(refunded)?;
                cart.paid = cart.paid.plus(applied)?;
                credit(&mut cart, payment.user.as_ref(), applied)?;
                draft.put_record(cart, CART_PAYMENT_CHANGED, &data);
            }
            Self::Order { order: address, .. } => {
                let mut order = draft.order(address)?.ok_or_else(not_found)?;
                let refunded = put(&mut order.payments, payment, order.currency, refunded);
                order.refunded = order.refunded.plus(refunded)?;
                order.paid = order.paid.plus(applied)?;
                draft.put_record(order, ORDER_PAYMENT_CHANGED, &data);
                if applied > Money::ZERO {
                    if let Some(order) = draft.load(address)? {
                        record_paid(draft, order);
                    }
                }
            }
        }
        Ok(())
    }

    /// The lock goes with the last payment that was open under it.
    pub fn release_if_last(
        &self,
        draft: &mut UnitOfWork<'_>,
        payment: &Payment,
        reason: &str,
    ) -> Result<()> {
        let Some(lock) = self.lock_of(draft, payment)? else { return Ok(()) };
        let cart = self.open_cart(draft)?;
        if cart.is_some_and(|cart| !cart.has_open_payment(payment.token)) {
            draft.release(lock, reason)?;
        }
        Ok(())
    }
}

/// Puts the payment's entry in place, and returns what of the refunded money counts. Money of
/// another currency than the target's is shown as it was asked for, and never summed.
fn put(entries: &mut Vec<Entry>, payment: &Payment, currency: Currency, refunded: Money) -> Money {
    let mut entry = payment.entry();
    let is_other = payment.currency != currency;
    if is_other {
        let known = entries.iter().find(|known| known.shown.id == entry.shown.id);
        entry.shown.amount = known.map_or(Money::ZERO, |known| known.shown.amount);
        entry.shown.refunded_amount = Money::ZERO;
    }
    entry::put(entries, entry);
    if is_other { Money::ZERO } else { refunded }
}

/// A member has paid; one who paid as the session is its owner by now.
fn credit(cart: &mut Cart, user: Option<&Token>, applied: Money) -> Result<()> {
    let Some(user) = user else { return Ok(()) };
    let claimed = !cart.is_member(user) && cart.session.as_ref() == Some(user);
    let user = if claimed { cart.owner.clone() } else { user.clone() };
    if let Some(member) = cart.members.iter_mut().find(|member| member.user == user) {
        member.paid = member.paid.plus(applied)?;
    }
    Ok(())
}
