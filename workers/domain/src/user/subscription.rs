//! The subscription of a user.
//!
//! ```text
//! (none), cancelled ── register ──► registered ── activate ──► active ─┐
//!                                        └──────── cancel ───────┴─────┴──► cancelled
//! ```
//!
//! `activate` with a plan or an end renews what is active.

use brigade_contracts::{
    Refusal,
    event::{
        USER_SUBSCRIPTION_ACTIVATED, USER_SUBSCRIPTION_CANCELLED, USER_SUBSCRIPTION_REGISTERED,
    },
    user::{Subscribe, Subscription, SubscriptionStatus as Status},
};

use crate::{changes::Fact, state::User};

pub(super) fn register(user: &mut User, verb: &Subscribe) -> Result<Fact, Refusal> {
    if let Some(present) = &user.subscription
        && (present.status != Status::Cancelled || present.subscription_id == verb.subscription_id)
    {
        return Err(conflict("subscription_exists", "there is a subscription already"));
    }
    user.subscription = Some(Subscription {
        subscription_id: verb.subscription_id.clone(),
        plan: verb.plan.clone(),
        status: Status::Registered,
        until: verb.until,
    });
    Ok(Fact::new(USER_SUBSCRIPTION_REGISTERED, verb))
}

pub(super) fn activate(user: &mut User, verb: &Subscribe) -> Result<Fact, Refusal> {
    let present = find(user, verb)?;
    let renews = verb.plan.is_some() || verb.until.is_some();
    if present.status == Status::Active && !renews {
        return Err(conflict("already_active", "the subscription is active already"));
    }
    change(present, verb, Status::Active);
    Ok(Fact::new(USER_SUBSCRIPTION_ACTIVATED, verb))
}

pub(super) fn cancel(user: &mut User, verb: &Subscribe) -> Result<Fact, Refusal> {
    change(find(user, verb)?, verb, Status::Cancelled);
    Ok(Fact::new(USER_SUBSCRIPTION_CANCELLED, verb))
}

fn change(present: &mut Subscription, verb: &Subscribe, status: Status) {
    present.status = status;
    present.plan = verb.plan.clone().or_else(|| present.plan.take());
    present.until = verb.until.or(present.until);
}

/// Returns the named subscription, unless it is cancelled.
fn find<'a>(user: &'a mut User, verb: &Subscribe) -> Result<&'a mut Subscription, Refusal> {
    let named = |s: &&mut Subscription| s.subscription_id == verb.subscription_id;
    match user.subscription.as_mut().filter(named) {
        None => {
            let message = "the user has no subscription of this id";
            Err(Refusal::new(404, "subscription_not_found", message))
        }
        Some(present) if present.status == Status::Cancelled => {
            Err(conflict("subscription_cancelled", "the subscription is cancelled"))
        }
        Some(present) => Ok(present),
    }
}

fn conflict(code: &'static str, message: &'static str) -> Refusal {
    Refusal::new(409, code, message)
}
