//! What becomes of an account as a whole.

use brigade_contracts::{
    Address, Email, Refusal, Secret, Via,
    event::{USER_ERASED, USER_RESUMED, USER_SUSPENDED},
    user::{Erase, Status},
    verb::Reason,
};
use serde_json::json;

use super::{passwords, profile::ERASED_HOST, session};
use crate::{
    changes::Fact,
    outcome::{Done, Result},
    security::SecurityKind,
    state::User,
    unit_of_work::{Handle, UnitOfWork},
};

pub(super) fn suspend(work: &mut UnitOfWork<'_>, address: &Address, why: &Reason) -> Result<Done> {
    let user = work.existing::<User>(address)?;
    require_active(work, user)?;
    require_manager_left(work, user)?;
    let sessions = session::end_all(&mut work[user]);
    work[user].status = Status::Suspended;
    work[user].reset = None;
    let data = json!({ "reason": why.reason, "sessions": sessions });
    work.record(user, Fact::new(USER_SUSPENDED, &data));
    work.log(SecurityKind::UserSuspended, address, json!({ "reason": why.reason }));
    Ok(Done::ok())
}

pub(super) fn resume(work: &mut UnitOfWork<'_>, address: &Address) -> Result<Done> {
    let user = work.existing::<User>(address)?;
    if work[user].status != Status::Suspended {
        return Err(Refusal::new(409, "not_suspended", "the user is not suspended").into());
    }
    work[user].status = Status::Active;
    work.record(user, Fact::new(USER_RESUMED, &json!({})));
    work.log(SecurityKind::UserResumed, address, json!({}));
    Ok(Done::ok())
}

/// Refuses what a user does who must not do anything.
pub(super) fn require_active(work: &UnitOfWork<'_>, user: Handle<User>) -> Result<()> {
    match work[user].status {
        Status::Active => Ok(()),
        Status::Suspended => {
            Err(Refusal::new(403, "user_suspended", "the user is suspended").into())
        }
        Status::Erased => Err(erased().into()),
    }
}

/// Refuses what a person does to a manager where nobody would be left to look after the users. A
/// program of the restaurant may do it: it makes another one.
pub(super) fn require_manager_left(work: &mut UnitOfWork<'_>, user: Handle<User>) -> Result<()> {
    if work.command.via != Via::Http || !work[user].is_manager() {
        return Ok(());
    }
    let address = work[user].head.address.clone();
    if work.has_other_manager(&address)? {
        return Ok(());
    }
    let message = "this is the only manager: make somebody else one first";
    Err(Refusal::new(409, "last_manager", message).into())
}

/// Refuses what is done to a user who is no more.
pub(super) fn require_not_erased(work: &mut UnitOfWork<'_>, address: &Address) -> Result<()> {
    match work.find::<User>(address)? {
        Some(user) if user.status == Status::Erased => Err(erased().into()),
        _ => Ok(()),
    }
}

fn erased() -> Refusal {
    Refusal::new(409, "user_erased", "the user was erased")
}

/// Removes what is known of the person. The id stays, with the money and the trail of what was done.
pub(super) fn erase(work: &mut UnitOfWork<'_>, address: &Address, erase: &Erase) -> Result<Done> {
    let user = work.existing::<User>(address)?;
    if erase.password.is_some() {
        passwords::require(work, user)?;
    }
    require_manager_left(work, user)?;
    session::end_all(&mut work[user]);
    let email = work[user].email.folded();
    // The column has to hold one, and no two the same, in whatever case.
    let id: String = address.id.as_str().bytes().map(|byte| format!("{byte:02x}")).collect();
    let User {
        head: _,
        email: kept,
        profile_id: _,
        password_hash,
        status,
        reset,
        roles,
        sessions: _,
        known_sources,
        last_login_at,
        subscription,
    } = &mut work[user];
    *kept = Email::new(format!("{id}{ERASED_HOST}"))?;
    *password_hash = Secret::new("-".to_owned())?;
    *status = Status::Erased;
    (*reset, *last_login_at, *subscription) = (None, None, None);
    roles.clear();
    known_sources.clear();
    work.changes.erased.push((address.clone(), email));
    work.record(user, Fact::new(USER_ERASED, &json!({})));
    work.log(SecurityKind::UserErased, address, json!({}));
    Ok(Done::ok())
}
