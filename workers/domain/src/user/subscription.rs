//! ```text
//! (none), cancelled ── register ──► registered ── activate ──► active ─┐
//!                                        └──────── cancel ───────┴─────┴──► cancelled
//! ```
//! `activate` with a plan or an end renews what is active.

use brigade_contracts::{
    Refusal, event,
    user::{Subscribe, Subscription, SubscriptionStatus as Status},
};

use super::{
    super::draft::{Done, Draft, Result},
    User,
};

pub(super) fn register(draft: &mut Draft<'_>, mut user: User, said: &Subscribe) -> Result<Done> {
    if let Some(present) = &user.subscription
        && (present.status != Status::Cancelled || present.subscription_id == said.subscription_id)
    {
        return Err(conflict("subscription_exists", "there is a subscription already"));
    }
    user.subscription = Some(Subscription {
        subscription_id: said.subscription_id.clone(),
        plan: said.plan.clone(),
        status: Status::Registered,
        until: said.until,
    });
    draft.record(user, event::USER_SUBSCRIPTION_REGISTERED, said);
    Ok(Done::ok())
}

pub(super) fn activate(draft: &mut Draft<'_>, user: User, said: &Subscribe) -> Result<Done> {
    let present = find(&user, said)?;
    let renews = said.plan.is_some() || said.until.is_some();
    if present.status == Status::Active && !renews {
        return Err(conflict("already_active", "the subscription is active already"));
    }
    turn(draft, user, said, Status::Active, event::USER_SUBSCRIPTION_ACTIVATED)
}

pub(super) fn cancel(draft: &mut Draft<'_>, user: User, said: &Subscribe) -> Result<Done> {
    find(&user, said)?;
    turn(draft, user, said, Status::Cancelled, event::USER_SUBSCRIPTION_CANCELLED)
}

fn turn(
    draft: &mut Draft<'_>,
    mut user: User,
    said: &Subscribe,
    status: Status,
    kind: event::Kind,
) -> Result<Done> {
    user.subscription = user.subscription.map(|present| Subscription {
        subscription_id: present.subscription_id,
        plan: said.plan.clone().or(present.plan),
        status,
        until: said.until.or(present.until),
    });
    draft.record(user, kind, said);
    Ok(Done::ok())
}

/// The subscription that is meant, unless it is cancelled.
fn find<'a>(user: &'a User, said: &Subscribe) -> Result<&'a Subscription> {
    let meant = |s: &&Subscription| s.subscription_id == said.subscription_id;
    match user.subscription.as_ref().filter(meant) {
        None => {
            let message = "the user has no subscription of this id";
            Err(Refusal::new(404, "subscription_not_found", message).into())
        }
        Some(present) if present.status == Status::Cancelled => {
            Err(conflict("subscription_cancelled", "the subscription is cancelled"))
        }
        Some(present) => Ok(present),
    }
}

fn conflict(code: &'static str, message: &'static str) -> super::super::draft::Stop {
    Refusal::new(409, code, message).into()
}
