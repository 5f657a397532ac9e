//! Users.
//!
//! ```text
//! (nothing) ── register ──► active ──┐ login, refresh, logout, end_session: sessions (`session`)
//!                             ▲      │ update_profile, change_roles; passwords (`passwords`)
//!                             └──────┘ subscriptions (`subscription`)
//! ```
//!
//! Neither passwords nor tokens are kept, only what they can be checked by. Hashing a password
//! takes so long that the caller does it before the batch ([`Checked`]); random numbers and the
//! failures that slow guessing down come from the caller too ([`AuthInputs`]).

mod account;
mod passwords;
mod profile;
mod session;
mod subscription;

use std::mem;

use brigade_contracts::{
    Address, Body, Refusal, Token,
    command::Request,
    event::{USER_REGISTERED, USER_ROLES_CHANGED},
    user::{ChangeRoles, MANAGER, MAX_ROLES, ROLE_BY_DEFAULT, Register, Status, Verb, is_reserved},
};
use serde_json::json;

use crate::{
    changes::Fact,
    head::Head,
    outcome::{Done, Result},
    refusal::{already_exists, too_large},
    security::SecurityKind,
    state::User,
    unit_of_work::UnitOfWork,
};

pub use self::session::{ACCESS_LASTS, REFRESH_LASTS};
pub use crate::{
    inputs::{AuthInputs, Checked, Verified},
    state::{Issued, Reset, Rotated, Session},
    throttle::{Count, FailureKey, FailureKind, Throttle, WINDOW, keys_of, network, wait_ms},
};

/// Returns whether a verb is for senders who have no session yet. Their outcomes reveal neither
/// whether there is such a user nor its version.
pub(crate) fn is_for_strangers(body: &Body) -> bool {
    use Verb::{Login, Refresh, RequestPasswordReset, ResetPassword};
    let Body::User(verb) = body else { return false };
    matches!(verb, Login(_) | Refresh(_) | RequestPasswordReset(_) | ResetPassword(_))
}

/// Returns whether the outcome of a refused verb carries the version. A user's grows with each
/// login, so a stranger who tries to register the same id does not learn it either.
pub(crate) fn reveals_version(body: &Body) -> bool {
    !is_for_strangers(body) && !matches!(body, Body::User(Verb::Register(_)))
}

pub(crate) fn decide(work: &mut UnitOfWork<'_>, request: &Request, verb: &Verb) -> Result<Done> {
    let address = &request.address;
    if !is_for_strangers(&request.body) && !matches!(verb, Verb::Register(_)) {
        account::require_not_erased(work, address)?;
    }
    match verb {
        Verb::Register(verb) => register(work, address, verb),
        Verb::Login(verb) => session::login(work, request, verb),
        Verb::Refresh(verb) => session::refresh(work, request, verb),
        Verb::Logout(verb) => session::logout(work, address, verb),
        Verb::EndSession(verb) => {
            change(work, address, |user| session::end_one(user, &verb.session))
        }
        Verb::ChangePassword(_) => passwords::change(work, address),
        Verb::ChangeEmail(verb) => profile::change_email(work, address, verb),
        Verb::RequestPasswordReset(verb) => passwords::request_reset(work, request, verb),
        Verb::ResetPassword(verb) => passwords::reset(work, address, verb),
        Verb::Suspend(verb) => account::suspend(work, address, verb),
        Verb::Resume(_) => account::resume(work, address),
        Verb::Erase(verb) => account::erase(work, address, verb),
        Verb::UpdateProfile(verb) => profile::update(work, address, verb),
        Verb::ChangeRoles(verb) => change_roles(work, address, verb),
        Verb::RegisterSubscription(verb) => {
            change(work, address, |user| subscription::register(user, verb))
        }
        Verb::ActivateSubscription(verb) => {
            change(work, address, |user| subscription::activate(user, verb))
        }
        Verb::CancelSubscription(verb) => {
            change(work, address, |user| subscription::cancel(user, verb))
        }
    }
}

/// Changes a user, who has to exist, by a rule.
fn change(
    work: &mut UnitOfWork<'_>,
    address: &Address,
    rule: impl FnOnce(&mut User) -> std::result::Result<Fact, Refusal>,
) -> Result<Done> {
    let user = work.existing(address)?;
    work.change(user, rule)
}

fn register(work: &mut UnitOfWork<'_>, address: &Address, register: &Register) -> Result<Done> {
    if work.find::<User>(address)?.is_some() {
        return Err(already_exists().into());
    }
    if is_reserved(&address.id) {
        return Err(Refusal::new(422, "reserved_id", "no user is called so").into());
    }
    // What a program has opened for a person of its own is not a stranger's who takes the name. He is
    // not told more than that it is taken.
    if work.command.relation.is_some() && work.is_named(&address.id)? {
        return Err(already_exists().into());
    }
    profile::require_free(work, address, &register.email)?;
    let user = work.create(User {
        head: Head::unborn(address.clone(), work.now),
        email: register.email.clone(),
        profile_id: register.profile_id.clone(),
        password_hash: work.hashed_password()?.clone(),
        status: Status::Active,
        reset: None,
        roles: vec![Token::new(ROLE_BY_DEFAULT)?],
        sessions: Vec::new(),
        known_sources: Vec::new(),
        last_login_at: None,
        subscription: None,
    });
    let data = json!({"profile_id": register.profile_id});
    work.record(user, Fact::new(USER_REGISTERED, &data));
    Ok(Done::created())
}

fn change_roles(work: &mut UnitOfWork<'_>, address: &Address, verb: &ChangeRoles) -> Result<Done> {
    let user = work.existing::<User>(address)?;
    let mut roles: Vec<Token> = Vec::new();
    for role in &verb.roles {
        if !roles.contains(role) {
            roles.push(role.clone());
        }
    }
    if roles.len() > MAX_ROLES {
        return Err(too_large("at most 32 roles").into());
    }
    if !roles.iter().any(|role| role.as_str() == MANAGER) {
        account::require_manager_left(work, user)?;
    }
    let fact = Fact::new(USER_ROLES_CHANGED, &json!({ "roles": roles }));
    let before = mem::replace(&mut work[user].roles, roles.clone());
    work.record(user, fact);
    let detail = json!({ "before": before, "roles": roles });
    work.log(SecurityKind::RolesChanged, address, detail);
    Ok(Done::ok())
}

#[cfg(test)]
mod tests;
