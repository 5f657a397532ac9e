//! Passwords: shown, changed, and chosen anew by a token.
//!
//! A token for a new password is sent by a program of the restaurant ([`Hook`]), which knows how to
//! reach the user. It is kept as a hash, works once, and for half an hour. Whoever asks for one is
//! told the same, whether there is such a user or not.

use std::time::Duration;

use brigade_contracts::{
    Address, Refusal, Token,
    command::Request,
    event::{USER_PASSWORD_CHANGED, USER_PASSWORD_RESET_REQUESTED},
    user::{RequestPasswordReset, ResetPassword, Status, token},
};
use serde_json::json;

use super::{account::require_active, session};
use crate::{
    changes::{Fact, Hook},
    outcome::{Done, Result},
    security::SecurityKind,
    state::{Reset, User},
    throttle::{FailureKey, keys_of, keys_of_account, wait_ms},
    unit_of_work::{Handle, UnitOfWork},
};

/// The lifetime of a token for a new password.
pub const RESET_LASTS: Duration = Duration::from_secs(30 * 60);

/// Requires the password that a command shows to be that of the user.
pub(super) fn require(work: &mut UnitOfWork<'_>, user: Handle<User>) -> Result<()> {
    let address = work[user].head.address.clone();
    let keys = keys_of(work.command);
    let is_known = work[user].knows(work.command.source);
    if let Some(wait) = throttled(work, &keys, is_known)? {
        work.log(SecurityKind::LoginThrottled, &address, json!({ "retry_after_ms": wait }));
        work.keep();
        return Err(too_many(wait).into());
    }
    if !work.verified(Some(&work[user].password_hash))? {
        work.changes.failures.extend(keys);
        work.log(SecurityKind::LoginFailed, &address, json!({}));
        work.keep();
        return Err(Refusal::new(401, "wrong_credentials", "this is not the password").into());
    }
    work.changes.cleared.extend(keys.into_iter().filter(|key| !key.is_of_source()));
    Ok(())
}

/// Returns how long a command has to wait for failures before it, in milliseconds.
pub(super) fn throttled(
    work: &UnitOfWork<'_>,
    keys: &[FailureKey],
    is_known: bool,
) -> Result<Option<u64>> {
    let counts = keys.iter().map(|key| Ok((key.kind, work.failures(key)?)));
    Ok(wait_ms(counts.collect::<Result<Vec<_>>>()?, is_known, work.now))
}

pub(super) fn too_many(wait_ms: u64) -> Refusal {
    let message = "too many failed attempts; even the right password has to wait";
    let refusal = Refusal::new(429, "too_many_attempts", message);
    Refusal { retry_after_ms: Some(wait_ms), ..refusal }
}

pub(super) fn change(work: &mut UnitOfWork<'_>, address: &Address) -> Result<Done> {
    let user = work.existing::<User>(address)?;
    require_active(work, user)?;
    require(work, user)?;
    let own = session::own(work, address);
    let sessions = session::end_all_but(&mut work[user], own.as_ref());
    set(work, user, "change", &sessions)?;
    Ok(Done::ok())
}

/// Gives a user the new password of the command.
fn set(work: &mut UnitOfWork<'_>, user: Handle<User>, reason: &str, ended: &[Token]) -> Result<()> {
    work[user].password_hash = work.hashed_password()?.clone();
    work[user].reset = None;
    let data = json!({ "reason": reason, "sessions": ended });
    work.record(user, Fact::new(USER_PASSWORD_CHANGED, &data));
    let address = work[user].head.address.clone();
    work.log(SecurityKind::PasswordChanged, &address, json!({ "reason": reason }));
    Ok(())
}

/// Sends a token for a new password to the user, if there is one. The outcome is always the same,
/// and so is a refusal for too many of them.
pub(super) fn request_reset(
    work: &mut UnitOfWork<'_>,
    request: &Request,
    verb: &RequestPasswordReset,
) -> Result<Done> {
    let accepted = || {
        let message = "if there is a user of this email, a token is sent";
        Refusal::new(202, "accepted", message)
    };
    let keys = keys_of(work.command);
    if let Some(wait) = throttled(work, &keys, false)? {
        return Err(too_many(wait).into());
    }
    work.changes.failures.extend(keys);
    let user = work.load::<User>(&request.address)?;
    let user = user.filter(|user| {
        let user = &work[*user];
        user.email.folded() == verb.email.folded() && user.status == Status::Active
    });
    if let Some(user) = user {
        let token = token(&request.address.id, &work.random()?);
        let expires_at = work.now.plus(RESET_LASTS);
        work[user].reset = Some(Reset { hash: token.sha256(), expires_at });
        let data = json!({ "expires_at": expires_at });
        work.record(user, Fact::new(USER_PASSWORD_RESET_REQUESTED, &data));
        work.log(SecurityKind::PasswordResetRequested, &request.address, json!({}));
        let email = work[user].email.clone();
        work.changes.hooks.push(Hook { user: request.address.clone(), email, token, expires_at });
    }
    work.keep();
    Err(accepted().into())
}

pub(super) fn reset(
    work: &mut UnitOfWork<'_>,
    address: &Address,
    verb: &ResetPassword,
) -> Result<Done> {
    let invalid = || Refusal::new(401, "invalid_token", "this token is not good, or not any more");
    let user = work.load::<User>(address)?.ok_or_else(invalid)?;
    let hash = verb.reset_token.sha256();
    let now = work.now;
    let is_good = |reset: &Reset| reset.hash == hash && now < reset.expires_at;
    if !work[user].reset.as_ref().is_some_and(is_good) {
        return Err(invalid().into());
    }
    require_active(work, user)?;
    let sessions = session::end_all(&mut work[user]);
    set(work, user, "reset", &sessions)?;
    // Whoever was kept out by failures, his own or those of others, is let in where he has just been.
    let (tenant, source) = (&work.command.tenant, work.command.source);
    let keys = keys_of_account(tenant, work[user].email.folded(), source);
    work.changes.cleared.extend(keys);
    if let Some(source) = work.command.source {
        work[user].learn(source);
    }
    Ok(Done::ok())
}
