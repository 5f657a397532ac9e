//! A session turns out to be a user.

use brigade_contracts::{
    Aggregate, MAX_OPEN_CARTS, Money, Refusal, Token,
    cart::{Standing, Status},
    event::CART_CLAIMED,
};
use serde_json::json;

use super::{Cart, too_many_carts};
use crate::{
    outcome::{Done, Result},
    unit_of_work::UnitOfWork,
};

/// All open carts that the cart's session owns, and its lock, become the user's.
pub(super) fn claim(draft: &mut UnitOfWork<'_>, cart: Cart, user: &Token) -> Result<Done> {
    let Some(session) = cart.session.clone() else {
        return Err(Refusal::new(409, "no_session", "the cart has no session").into());
    };
    if cart.owner == *user {
        return Ok(Done::ok());
    }
    if cart.owner != session {
        return Err(Refusal::new(409, "already_claimed", "the cart is another user's").into());
    }
    let of_session = draft.live_lock(&session)?;
    let of_user = draft.live_lock(user)?;
    match (of_session, of_user) {
        (Some(_), Some(held)) => return Err(held.refusal(draft.now)),
        (Some(lock), None) => draft.hand_over(lock, user)?,
        (None, _) => {}
    }
    let carts = draft.carts_of_session(&session)?.to_vec();
    for owner in [&session, user] {
        // A cart that is being opened or changed under either owner is seen, or waits.
        let lock = draft.address(Aggregate::Lock, owner);
        draft.require_owner(&lock, crate::Mode::Exclusive)?;
    }
    let mut open = draft.open_carts_of(user)?;
    for address in carts {
        let Some(cart) = draft.cart(&address)? else { continue };
        if cart.status == Status::Open && cart.owner == session {
            open += 1;
            if open > MAX_OPEN_CARTS {
                return Err(too_many_carts().into());
            }
            let cart = cart.claimed(&session, user);
            cart.require_fitting()?;
            draft.put_record(cart, CART_CLAIMED, &json!({ "session": session, "user": user }));
        }
    }
    Ok(Done::ok())
}

impl Cart {
    /// What was the session's is the user's, who may have been a member besides.
    fn claimed(mut self, session: &Token, user: &Token) -> Self {
        self.owner = user.clone();
        let Some(at) = self.members.iter().position(|member| member.user == *session) else {
            return self;
        };
        let known = self.members.iter().position(|member| member.user == *user);
        let joined = known.map(|at| self.members[at].clone());
        let Standing { committed, paid, .. } = self.members[at].clone();
        let (more, also) = joined.map_or((Money::ZERO, None), |m| (m.paid, m.committed));
        self.members[at] = Standing {
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
        self
    }
}
