use brigade_contracts::{
    Address, MAX_OPEN_CARTS, Money,
    cart::{Kind, MemberPayment, Open, Status},
    event::CART_OPENED,
};

use super::checks::too_many_carts;
use crate::{
    changes::Fact,
    head::Head,
    outcome::{Done, Result},
    refusal::already_exists,
    state::Cart,
    unit_of_work::UnitOfWork,
};

pub(super) fn open(work: &mut UnitOfWork<'_>, address: &Address, open: &Open) -> Result<Done> {
    if work.find::<Cart>(address)?.is_some() {
        return Err(already_exists().into());
    }
    for name in [Some(&open.owner), open.session.as_ref()].into_iter().flatten() {
        if work.open_carts(name)? >= MAX_OPEN_CARTS {
            return Err(too_many_carts().into());
        }
    }
    if Some(&open.owner) != open.session.as_ref() {
        work.name_person(&open.owner);
    }
    let member = MemberPayment { user: open.owner.clone(), committed: None, paid: Money::ZERO };
    let cart = work.create(Cart {
        head: Head::unborn(address.clone(), work.now),
        kind: open.kind,
        owner: open.owner.clone(),
        session: open.session.clone(),
        status: Status::Open,
        currency: open.currency,
        members: if open.kind == Kind::Team { vec![member] } else { Vec::new() },
        items: Vec::new(),
        paid: Money::ZERO,
        refunded: Money::ZERO,
        payments: Vec::new(),
        order_id: None,
        locked_until: None,
        refusals: 0,
        secret_hash: (open.kind == Kind::Team).then(|| work.cart_secret().sha256()),
    });
    work.record(cart, Fact::new(CART_OPENED, open));
    Ok(Done::created())
}
