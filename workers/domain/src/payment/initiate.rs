use brigade_contracts::{
    Address, Aggregate, Currency, Money, Refusal,
    cart::{Kind, Status},
    event::PAYMENT_INITIATED,
    order,
    payment::{self, Initiate, Target},
};

use super::{
    super::{
        Cart, Entry, Head, Lock,
        cart::{cart_empty, closed, not_a_member},
        lock::stale_token,
        outcome::{Done, Result},
        state::entry::{has_room, open},
        unit_of_work::UnitOfWork,
    },
    Payment,
    home::Home,
};

pub(super) fn initiate(
    draft: &mut UnitOfWork<'_>,
    address: &Address,
    said: &Initiate,
) -> Result<Done> {
    match &said.target {
        Target::Cart(id) => {
            let cart = draft.address(Aggregate::Cart, id);
            of_cart(draft, address, said, &cart)
        }
        Target::Order(id) => {
            let order = draft.address(Aggregate::Order, id);
            of_order(draft, address, said, &order)
        }
    }
}

fn of_order(
    draft: &mut UnitOfWork<'_>,
    address: &Address,
    said: &Initiate,
    order: &Address,
) -> Result<Done> {
    let order = draft.order(order)?.ok_or_else(|| target_not_found("order_not_found"))?;
    if order.status == order::Status::Cancelled {
        return Err(Refusal::new(409, "order_cancelled", "the order is cancelled").into());
    }
    require_room(&order.payments)?;
    let open = sum(open(&order.payments).map(|entry| entry.shown.amount))?;
    let amount = amount(said, order.due().less(open))?;
    let payment = Payment::new(draft, address, said, amount, order.currency);
    begin(draft, payment, said)?;
    Ok(Done::created())
}

fn of_cart(
    draft: &mut UnitOfWork<'_>,
    address: &Address,
    said: &Initiate,
    cart: &Address,
) -> Result<Done> {
    let cart = draft.cart(cart)?.ok_or_else(|| target_not_found("cart_not_found"))?;
    if cart.status != Status::Open {
        return Err(closed().into());
    }
    if cart.kind == Kind::Team && said.user.as_ref().is_some_and(|user| !cart.is_member(user)) {
        return Err(not_a_member().into());
    }
    let lock = joined(draft, &cart, said)?;
    let cart = draft.again(cart);
    if cart.items.is_empty() {
        return Err(cart_empty().into());
    }
    require_room(&cart.payments)?;
    let under = |lock: &Lock| {
        let entries = open(&cart.payments).filter(|entry| entry.token == Some(lock.token));
        sum(entries.map(|entry| entry.shown.amount))
    };
    let open = lock.as_ref().map(under).transpose()?.unwrap_or_default();
    let amount = amount(said, cart.due().less(open))?;
    let (currency, fingerprint) = (cart.currency, cart.fingerprint());
    let lock = match lock {
        Some(lock) => lock,
        None => draft.acquire(cart, said.method, said.transaction_id.clone())?,
    };
    let payment = Payment {
        token: Some(lock.token),
        fingerprint: Some(fingerprint),
        ..Payment::new(draft, address, said, amount, currency)
    };
    begin(draft, payment, said)?;
    Ok(crate::lock::tell(&lock, Done::created(), amount))
}

/// The live lock that this payment may join: it is this cart's, and the token names it or another
/// payment is open under it. `None`: there is no lock, it is to be taken.
fn joined(draft: &mut UnitOfWork<'_>, cart: &Cart, said: &Initiate) -> Result<Option<Lock>> {
    let lock = draft.live_lock(&cart.owner)?;
    let is_its = |lock: &Lock| lock.cart_id == cart.head.address.id;
    match (lock, said.token) {
        (None, None) => Ok(None),
        (Some(lock), Some(token)) if lock.token == token && is_its(&lock) => Ok(Some(lock)),
        (_, Some(_)) => Err(stale_token()),
        (Some(lock), None) if is_its(&lock) && cart.has_open_payment(Some(lock.token)) => {
            Ok(Some(lock))
        }
        (Some(lock), None) => Err(lock.refusal(draft.now)),
    }
}

fn begin(draft: &mut UnitOfWork<'_>, payment: Payment, said: &Initiate) -> Result<()> {
    let home = Home::of(draft, &payment.target)?;
    draft.put_record(payment.clone(), PAYMENT_INITIATED, said);
    home.show(draft, &payment, Money::ZERO, Money::ZERO)
}

fn require_room(entries: &[Entry]) -> Result<()> {
    if has_room(entries) {
        return Ok(());
    }
    let message = "there are 50 payments that are open or have money in them";
    Err(Refusal::new(422, "too_many_payments", message).into())
}

/// By default, and at most, what is left to pay.
fn amount(said: &Initiate, left: Money) -> Result<Money> {
    let amount = said.amount.unwrap_or(left);
    if amount == Money::ZERO || left == Money::ZERO {
        return Err(Refusal::new(409, "nothing_due", "there is nothing left to pay").into());
    }
    if amount > left {
        let message = "this is more than what is due less what is being paid already";
        return Err(Refusal::new(409, "amount_too_high", message).into());
    }
    Ok(amount)
}

fn sum(mut amounts: impl Iterator<Item = Money>) -> Result<Money> {
    Ok(amounts.try_fold(Money::ZERO, Money::plus)?)
}

fn target_not_found(code: &'static str) -> Refusal {
    Refusal::new(404, code, "there is nothing of this id to be paid")
}

impl Payment {
    fn new(
        draft: &UnitOfWork<'_>,
        address: &Address,
        said: &Initiate,
        amount: Money,
        currency: Currency,
    ) -> Self {
        Self {
            head: Head::unborn(address.clone(), draft.now),
            target: said.target.clone(),
            method: said.method,
            status: payment::Status::Initiated,
            amount,
            currency,
            refunded_amount: Money::ZERO,
            user: said.user.clone(),
            token: None,
            fingerprint: None,
            transaction_id: said.transaction_id.clone(),
            applied: Money::ZERO,
            captures: Vec::new(),
            order_id: said.order_id.clone(),
            table_id: said.table_id.clone(),
            tasks: Vec::new(),
        }
    }
}
