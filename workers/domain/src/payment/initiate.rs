use brigade_contracts::{
    Address, Aggregate, Currency, Money, Refusal,
    cart::{Kind, Status},
    event::PAYMENT_INITIATED,
    order,
    payment::{self, Initiate, Target},
};

use super::target::PaymentTarget;
use crate::{
    cart::{cart_empty, closed, not_a_member},
    head::Head,
    lock,
    outcome::{Done, Result},
    refusal::already_exists,
    state::{
        Cart, Lock, Order, Payment,
        entry::{Entry, has_room, open},
    },
    unit_of_work::{Handle, UnitOfWork},
};

pub(super) fn initiate(
    work: &mut UnitOfWork<'_>,
    address: &Address,
    verb: &Initiate,
) -> Result<Done> {
    if work.find::<Payment>(address)?.is_some() {
        return Err(already_exists().into());
    }
    match &verb.target {
        Target::Cart(id) => of_cart(work, address, verb, &work.address(Aggregate::Cart, id)),
        Target::Order(id) => of_order(work, address, verb, &work.address(Aggregate::Order, id)),
    }
}

fn of_order(
    work: &mut UnitOfWork<'_>,
    address: &Address,
    verb: &Initiate,
    order: &Address,
) -> Result<Done> {
    let order = work.load::<Order>(order)?.ok_or_else(|| target_not_found("order_not_found"))?;
    let order = &work[order];
    if order.status == order::Status::Cancelled {
        return Err(Refusal::new(409, "order_cancelled", "the order is cancelled").into());
    }
    require_room(&order.payments)?;
    let open = sum(open(&order.payments).map(|entry| entry.payment.amount))?;
    let amount = amount(verb, order.due().less(open))?;
    let payment = new(work, address, verb, amount, order.currency);
    begin(work, payment, verb)?;
    Ok(Done::created())
}

fn of_cart(
    work: &mut UnitOfWork<'_>,
    address: &Address,
    verb: &Initiate,
    cart: &Address,
) -> Result<Done> {
    let cart = work.load::<Cart>(cart)?.ok_or_else(|| target_not_found("cart_not_found"))?;
    require_payer(&work[cart], verb)?;
    let joined = joined_lock(work, cart, verb)?;
    let present = &work[cart];
    if present.items.is_empty() {
        return Err(cart_empty().into());
    }
    require_room(&present.payments)?;
    let being_paid = match joined {
        Some(lock) => {
            let token = Some(work[lock].token);
            let entries = open(&present.payments).filter(|entry| entry.token == token);
            sum(entries.map(|entry| entry.payment.amount))?
        }
        None => Money::ZERO,
    };
    let amount = amount(verb, present.due().less(being_paid))?;
    let payment = new(work, address, verb, amount, present.currency);
    let fingerprint = Some(present.fingerprint());
    let lock = match joined {
        Some(lock) => lock,
        None => lock::acquire(work, cart, verb.method, verb.transaction_id.clone())?,
    };
    begin(work, Payment { token: Some(work[lock].token), fingerprint, ..payment }, verb)?;
    Ok(lock::describe(Done::created(), &work[lock], amount))
}

fn require_payer(cart: &Cart, verb: &Initiate) -> std::result::Result<(), Refusal> {
    if cart.status != Status::Open {
        return Err(closed());
    }
    if cart.kind == Kind::Team && verb.user.as_ref().is_some_and(|user| !cart.is_member(user)) {
        return Err(not_a_member());
    }
    Ok(())
}

/// Returns the live lock that this payment may join: it is this cart's, and the token names it or
/// another payment is open under it. `None`: there is no lock, it is to be taken.
fn joined_lock(
    work: &mut UnitOfWork<'_>,
    cart: Handle<Cart>,
    verb: &Initiate,
) -> Result<Option<Handle<Lock>>> {
    let Some(lock) = lock::live_over(work, cart)? else {
        return if verb.token.is_none() { Ok(None) } else { Err(lock::ended_token().into()) };
    };
    let (held, cart) = (&work[lock], &work[cart]);
    let is_its = held.cart_id == cart.head.address.id;
    match verb.token {
        Some(token) if is_its && token == held.token => Ok(Some(lock)),
        Some(_) => Err(lock::stale_token().into()),
        None if is_its && cart.has_open_payment(Some(held.token)) => Ok(Some(lock)),
        None => {
            let message =
                "this cart is being paid; a payment under its lock gives the lock's token";
            Err(Refusal { message: message.into(), ..held.refusal(work.now) }.into())
        }
    }
}

fn begin(work: &mut UnitOfWork<'_>, payment: Payment, verb: &Initiate) -> Result<()> {
    let payment = work.create(payment);
    let target = PaymentTarget::of(work, payment)?;
    work.record(payment, PAYMENT_INITIATED, verb);
    target.update(work, payment, Money::ZERO, Money::ZERO)
}

fn new(
    work: &UnitOfWork<'_>,
    address: &Address,
    verb: &Initiate,
    amount: Money,
    currency: Currency,
) -> Payment {
    Payment {
        head: Head::unborn(address.clone(), work.now),
        target: verb.target.clone(),
        method: verb.method,
        status: payment::Status::Initiated,
        amount,
        currency,
        refunded_amount: Money::ZERO,
        user: verb.user.clone(),
        token: None,
        fingerprint: None,
        transaction_id: verb.transaction_id.clone(),
        applied: Money::ZERO,
        captures: Vec::new(),
        order_id: verb.order_id.clone(),
        table_id: verb.table_id.clone(),
        tasks: Vec::new(),
    }
}

fn require_room(entries: &[Entry]) -> Result<()> {
    if has_room(entries) {
        return Ok(());
    }
    let message = "there are 50 payments that are open or have money in them";
    Err(Refusal::new(422, "too_many_payments", message).into())
}

/// Returns the amount of a payment: by default, and at most, what is left to pay.
fn amount(verb: &Initiate, left: Money) -> Result<Money> {
    let amount = verb.amount.unwrap_or(left);
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
