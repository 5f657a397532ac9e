//! Requirements on a cart that several verbs share.

use brigade_contracts::{Address, Aggregate, Money, Part, Refusal, Token, cart::Status};

use crate::{
    loaded::Mode,
    lock, outcome,
    refusal::{MOST_CONTENTS, too_large},
    state::Cart,
    unit_of_work::{Handle, UnitOfWork},
};

/// Returns the cart, which has to be open.
pub(super) fn open(work: &mut UnitOfWork<'_>, address: &Address) -> outcome::Result<Handle<Cart>> {
    let cart = work.existing::<Cart>(address)?;
    if work[cart].status == Status::Open { Ok(cart) } else { Err(closed().into()) }
}

/// Returns the cart, which has to be open, and not kept as it is by its owner's lock.
pub(super) fn unlocked(
    work: &mut UnitOfWork<'_>,
    address: &Address,
) -> outcome::Result<Handle<Cart>> {
    let cart = open(work, address)?;
    match lock::live_over(work, cart)? {
        Some(lock) => Err(work[lock].refusal(work.now).into()),
        None => Ok(cart),
    }
}

/// Returns how many open carts are a user's or a session's. Both are locked for it like owners,
/// exclusively: nobody opens or claims another one meanwhile.
pub(super) fn count_open(work: &mut UnitOfWork<'_>, name: &Token) -> outcome::Result<usize> {
    let lock = work.address(Aggregate::Lock, name);
    work.require_owner(&lock, Mode::Exclusive)?;
    work.open_carts(name)
}

/// Refuses a change of the items once anything is paid.
pub(super) fn require_unpaid(cart: &Cart) -> Result<(), Refusal> {
    if cart.paid > Money::ZERO { Err(cart_paid()) } else { Ok(()) }
}

/// Refuses a cart that holds more than it may.
pub(super) fn require_fitting(cart: &Cart) -> Result<(), Refusal> {
    if cart.part(Part::Core).get().len() <= MOST_CONTENTS {
        return Ok(());
    }
    Err(too_large("a cart has at most 64 KiB"))
}

pub(super) fn too_many_carts() -> Refusal {
    let message = "an owner, and a session, has at most 50 open carts";
    Refusal::new(409, "too_many_carts", message)
}

pub(super) fn cart_paid() -> Refusal {
    Refusal::new(409, "cart_paid", "something is paid: the items stay as they are")
}

pub(crate) fn closed() -> Refusal {
    Refusal::new(409, "cart_closed", "the cart is not open any more")
}

pub(crate) fn cart_empty() -> Refusal {
    Refusal::new(422, "cart_empty", "there is nothing in the cart")
}

pub(crate) fn not_a_member() -> Refusal {
    Refusal::new(422, "not_a_member", "this user is no member of the cart")
}
