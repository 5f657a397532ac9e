//! The history of refused attempts to take a lock.

use brigade_contracts::{
    Address, Aggregate, Body, Refusal,
    cart::Verb as CartVerb,
    command::Request,
    lock::Action,
    payment::{Method, Target, Verb as PaymentVerb},
};

use crate::{
    changes::{HistoryRow, LockMetric},
    loaded::Mode,
    lock,
    outcome::Result,
    state::Cart,
    unit_of_work::UnitOfWork,
};

/// The most refusals of one token, or of one cart without a live lock, that the history keeps.
const MOST_REFUSALS: u32 = 1000;

/// Records that a `lock` or an `initiate` was refused. Past [`MOST_REFUSALS`] for one token, or for
/// a cart that no live lock holds, it is not recorded any more, so that nobody can fill the
/// history. Counting changes no version.
pub(crate) fn record(
    work: &mut UnitOfWork<'_>,
    request: &Request,
    refusal: &Refusal,
) -> Result<()> {
    let Some((address, method)) = attempt(work, request) else { return Ok(()) };
    let Some(cart) = work.load::<Cart>(&address)? else { return Ok(()) };
    let lock = lock::live_over(work, cart)?;
    work.changes.metrics.push(LockMetric::Refused(method, refusal.code.clone()));
    let refusals = lock.map_or(work[cart].refusals, |lock| work[lock].refusals);
    if refusals >= MOST_REFUSALS {
        return Ok(());
    }
    match lock {
        Some(lock) => {
            work.require_owner(&work[lock].head.address.clone(), Mode::Exclusive)?;
            work[lock].refusals += 1;
        }
        None => work[cart].refusals += 1,
    }
    let Cart { head, owner, .. } = &work[cart];
    let row = HistoryRow {
        tenant: head.address.tenant.clone(),
        owner: owner.clone(),
        cart_id: head.address.id.clone(),
        token: lock.map(|lock| work[lock].token),
        action: Action::Refused,
        method: Some(method),
        reason: Some(refusal.code.to_string()),
        actor: work.command.actor.clone(),
        at: work.now,
    };
    work.changes.history.push(row);
    Ok(())
}

/// Returns the cart that a command would have locked, and for which method.
fn attempt(work: &UnitOfWork<'_>, request: &Request) -> Option<(Address, Method)> {
    match &request.body {
        Body::Cart(CartVerb::Lock(lock)) => Some((request.address.clone(), lock.method)),
        Body::Payment(PaymentVerb::Initiate(initiate)) => match &initiate.target {
            Target::Cart(id) => Some((work.address(Aggregate::Cart, id), initiate.method)),
            Target::Order(_) => None,
        },
        _ => None,
    }
}
