//! The subscription of a user.
//!
//! ```text
//! (none), cancelled ── register ──► registered ── activate ──► active ─┐
//!                                        └──────── cancel ───────┴─────┴──► cancelled
//! ```
//!
//! `activate` with a plan or an end renews what is active.

use brigade_contracts::{
    Address, Refusal,
    event::{
        EventKind, USER_SUBSCRIPTION_ACTIVATED, USER_SUBSCRIPTION_CANCELLED,
        USER_SUBSCRIPTION_REGISTERED,
    },
    user::{Subscribe, Subscription, SubscriptionStatus as Status},
};

use crate::{
    outcome::{Done, Result},
    state::User,
    unit_of_work::{Handle, UnitOfWork},
};

pub(super) fn register(
    work: &mut UnitOfWork<'_>,
    address: &Address,
    verb: &Subscribe,
) -> Result<Done> {
    let user = work.existing::<User>(address)?;
    if let Some(present) = &work[user].subscription
        && (present.status != Status::Cancelled || present.subscription_id == verb.subscription_id)
    {
        return Err(conflict("subscription_exists", "there is a subscription already").into());
    }
    work[user].subscription = Some(Subscription {
        subscription_id: verb.subscription_id.clone(),
        plan: verb.plan.clone(),
        status: Status::Registered,
        until: verb.until,
    });
    work.record(user, USER_SUBSCRIPTION_REGISTERED, verb);
    Ok(Done::ok())
}

pub(super) fn activate(
    work: &mut UnitOfWork<'_>,
    address: &Address,
    verb: &Subscribe,
) -> Result<Done> {
    let user = work.existing::<User>(address)?;
    let present = find(&work[user], verb)?;
    let renews = verb.plan.is_some() || verb.until.is_some();
    if present.status == Status::Active && !renews {
        return Err(conflict("already_active", "the subscription is active already").into());
    }
    change(work, user, verb, Status::Active, USER_SUBSCRIPTION_ACTIVATED)
}

pub(super) fn cancel(
    work: &mut UnitOfWork<'_>,
    address: &Address,
    verb: &Subscribe,
) -> Result<Done> {
    let user = work.existing::<User>(address)?;
    find(&work[user], verb)?;
    change(work, user, verb, Status::Cancelled, USER_SUBSCRIPTION_CANCELLED)
}

fn change(
    work: &mut UnitOfWork<'_>,
    user: Handle<User>,
    verb: &Subscribe,
    status: Status,
    kind: EventKind,
) -> Result<Done> {
    if let Some(present) = &mut work[user].subscription {
        present.status = status;
        present.plan = verb.plan.clone().or_else(|| present.plan.take());
        present.until = verb.until.or(present.until);
    }
    work.record(user, kind, verb);
    Ok(Done::ok())
}

/// Returns the named subscription, unless it is cancelled.
fn find<'a>(user: &'a User, verb: &Subscribe) -> std::result::Result<&'a Subscription, Refusal> {
    let named = |s: &&Subscription| s.subscription_id == verb.subscription_id;
    match user.subscription.as_ref().filter(named) {
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
