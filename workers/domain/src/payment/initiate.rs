use brigade_contracts::{
    Address, Aggregate, Currency, Money, Refusal, Timestamp, Token,
    cart::Kind,
    event::PAYMENT_INITIATED,
    order,
    payment::{self, Initiate, Target},
};

use super::target::{PaymentChange, PaymentTarget};
use crate::{
    cart::not_a_member,
    changes::Fact,
    head::Head,
    lock,
    outcome::{Done, Result},
    refusal::{already_exists, cart_empty},
    state::{
        Cart, Lock, Order, Payment,
        entry::{Entry, has_room, open},
    },
    table,
    unit_of_work::UnitOfWork,
};

pub(super) fn initiate(
    work: &mut UnitOfWork<'_>,
    address: &Address,
    verb: &Initiate,
) -> Result<Done> {
    if work.find::<Payment>(address)?.is_some() {
        return Err(already_exists().into());
    }
    let verb = &of_customer(work, verb);
    let seat = seat(work, verb)?;
    let (payment, target, done) = match &verb.target {
        Target::Cart(id) => of_cart(work, address, verb, id)?,
        Target::Order(id) => of_order(work, address, verb, id)?,
    };
    verb.user.iter().for_each(|user| work.name_person(user));
    let payment = work.create(match seat {
        Some((table, turn)) => Payment { table_id: Some(table), turn_id: Some(turn), ..payment },
        None => payment,
    });
    let change = PaymentChange::of(Fact::new(PAYMENT_INITIATED, verb));
    target.record_payment(work, payment, change)?;
    Ok(done)
}

/// Returns what is asked for: a customer who names no payer is the payer.
fn of_customer(work: &UnitOfWork<'_>, verb: &Initiate) -> Initiate {
    let customer = work.command.actor.clone().filter(|_| work.command.relation.is_some());
    Initiate { user: verb.user.clone().or(customer), ..verb.clone() }
}

/// Returns the table and its open turn, where a turn is named or has to be.
fn seat(work: &mut UnitOfWork<'_>, verb: &Initiate) -> Result<Option<(Token, Token)>> {
    if verb.turn_id.is_none() && work.command.relation.is_none() {
        return Ok(None);
    }
    table::seat(work, verb.table_id.as_ref(), verb.turn_id.as_ref())
}

fn of_order(
    work: &mut UnitOfWork<'_>,
    address: &Address,
    verb: &Initiate,
    id: &Token,
) -> Result<(Payment, PaymentTarget, Done)> {
    let order = work.load::<Order>(&work.address(Aggregate::Order, id))?;
    let order = order.ok_or_else(|| target_not_found("order_not_found"))?;
    let present = &work[order];
    if present.status == order::Status::Cancelled {
        return Err(Refusal::new(409, "order_cancelled", "the order is cancelled").into());
    }
    require_room(&present.payments)?;
    let open = sum(open(&present.payments))?;
    let amount = amount(verb, present.due().less(open))?;
    let payment = new(address, verb, amount, present.currency, work.now);
    Ok((payment, PaymentTarget::Order { order, was: None }, Done::created()))
}

fn of_cart(
    work: &mut UnitOfWork<'_>,
    address: &Address,
    verb: &Initiate,
    id: &Token,
) -> Result<(Payment, PaymentTarget, Done)> {
    let cart = work.load::<Cart>(&work.address(Aggregate::Cart, id))?;
    let cart = cart.ok_or_else(|| target_not_found("cart_not_found"))?;
    require_payer(&work[cart], verb)?;
    let live = lock::live_over(work, cart)?;
    let present = &work[cart];
    let amount = amount_of_cart(present, live.map(|lock| &work[lock]), verb, work.now)?;
    let payment = new(address, verb, amount, present.currency, work.now);
    let lock = match live {
        Some(lock) => lock,
        None => lock::acquire(work, cart, verb.method, verb.transaction_id.clone())?,
    };
    let held = &work[lock];
    let done = held.describe(Done::created(), amount);
    let (token, fingerprint) = (Some(held.token), Some(held.fingerprint.clone()));
    let target = PaymentTarget::Cart { cart, lock: Some(lock) };
    Ok((Payment { token, fingerprint, ..payment }, target, done))
}

/// Returns the amount of a payment of a cart, over which there may be a live lock.
fn amount_of_cart(
    cart: &Cart,
    lock: Option<&Lock>,
    verb: &Initiate,
    now: Timestamp,
) -> Result<Money> {
    require_joinable(lock, cart, verb, now)?;
    if cart.items.is_empty() {
        return Err(cart_empty().into());
    }
    require_room(&cart.payments)?;
    let under = |entry: &&Entry| lock.is_some_and(|lock| entry.token == Some(lock.token));
    let being_paid = sum(open(&cart.payments).filter(under))?;
    amount(verb, cart.due().less(being_paid))
}

fn require_payer(cart: &Cart, verb: &Initiate) -> std::result::Result<(), Refusal> {
    cart.require_open()?;
    if cart.kind == Kind::Team && verb.user.as_ref().is_some_and(|user| !cart.is_member(user)) {
        return Err(not_a_member());
    }
    Ok(())
}

/// Requires that the payment may join the live lock: it is this cart's, and the token names it or
/// another payment is open under it. Where there is none, the payment takes it.
fn require_joinable(
    lock: Option<&Lock>,
    cart: &Cart,
    verb: &Initiate,
    now: Timestamp,
) -> std::result::Result<(), Refusal> {
    let Some(lock) = lock else {
        return if verb.token.is_none() { Ok(()) } else { Err(lock::ended_token()) };
    };
    let is_its = lock.cart_id == cart.head.address.id;
    match verb.token {
        Some(token) if is_its && token == lock.token => Ok(()),
        Some(_) => Err(lock::stale_token()),
        None if is_its && cart.has_open_payment(Some(lock.token)) => Ok(()),
        None => {
            let message =
                "this cart is being paid; a payment under its lock gives the lock's token";
            Err(Refusal { message: message.into(), ..lock.refusal(now) })
        }
    }
}

fn new(
    address: &Address,
    verb: &Initiate,
    amount: Money,
    currency: Currency,
    now: Timestamp,
) -> Payment {
    Payment {
        head: Head::unborn(address.clone(), now),
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
        turn_id: None,
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

fn sum<'a>(entries: impl Iterator<Item = &'a Entry>) -> Result<Money> {
    Ok(entries.map(|entry| entry.payment.amount).try_fold(Money::ZERO, Money::plus)?)
}

fn target_not_found(code: &'static str) -> Refusal {
    Refusal::new(404, code, "there is nothing of this id to be paid")
}
