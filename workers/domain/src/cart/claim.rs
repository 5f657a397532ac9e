//! A session turns out to be a user.

use brigade_contracts::{
    Address, Aggregate, MAX_OPEN_CARTS, Money, Refusal, Token,
    cart::{MemberPayment, Status},
    event::CART_CLAIMED,
};
use serde_json::json;

use super::checks::too_many_carts;
use crate::{
    changes::Fact,
    loaded::Mode,
    lock,
    outcome::{Done, Result},
    state::Cart,
    unit_of_work::UnitOfWork,
};

/// Gives to the user all open carts that the cart's session owns, and its lock.
pub(super) fn claim(work: &mut UnitOfWork<'_>, address: &Address, user: &Token) -> Result<Done> {
    let cart = work.existing::<Cart>(address)?;
    work[cart].require_open()?;
    let Cart { owner, session, .. } = &work[cart];
    let Some(session) = session.clone() else {
        return Err(Refusal::new(409, "no_session", "the cart has no session").into());
    };
    if owner == user {
        return Ok(Done::ok());
    }
    if *owner != session {
        return Err(Refusal::new(409, "already_claimed", "the cart is another user's").into());
    }
    let of_session = lock::live(work, &session)?;
    let of_user = lock::live(work, user)?;
    match (of_session, of_user) {
        (Some(_), Some(held)) => return Err(work[held].refusal(work.now).into()),
        (Some(lock), None) => lock::hand_over(work, lock, user)?,
        (None, _) => {}
    }
    let carts = work.carts_of_session(&session)?;
    work.name_person(user);
    // A cart that is being opened or changed under either owner is seen, or waits.
    work.require_owner(&work.address(Aggregate::Lock, &session), Mode::Exclusive)?;
    let mut count = work.open_carts(user)?;
    for address in carts {
        let Some(cart) = work.load::<Cart>(address)? else { continue };
        if work[cart].status == Status::Open && work[cart].owner == session {
            count += 1;
            if count > MAX_OPEN_CARTS {
                return Err(too_many_carts().into());
            }
            work[cart].give(&session, user);
            work[cart].require_fitting()?;
            let data = json!({ "session": session, "user": user });
            work.record(cart, Fact::new(CART_CLAIMED, &data));
        }
    }
    Ok(Done::ok())
}

impl Cart {
    /// Gives to the user what was the session's. The user may have been a member too.
    fn give(&mut self, session: &Token, user: &Token) {
        self.owner = user.clone();
        let Some(at) = self.members.iter().position(|member| member.user == *session) else {
            return;
        };
        let known = self.members.iter().position(|member| member.user == *user);
        let joined = known.map(|at| self.members[at].clone());
        let MemberPayment { committed, paid, .. } = self.members[at].clone();
        let (more, also) = joined.map_or((Money::ZERO, None), |m| (m.paid, m.committed));
        self.members[at] = MemberPayment {
            user: user.clone(),
            committed: committed.or(also),
            // Both are part of what is paid, which did not overflow.
            paid: paid.plus(more).unwrap_or(paid),
        };
        if let Some(known) = known {
            self.members.remove(known);
        }
        for item in self.items.iter_mut().filter(|item| item.user.as_ref() == Some(session)) {
            item.user = Some(user.clone());
        }
    }
}
