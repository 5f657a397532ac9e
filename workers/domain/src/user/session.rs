//! Sessions: at most one a user.
//!
//! ```text
//! (none) ── login ──► live ── logout, a rotated token used again ──► (none)
//!                     │  ▲
//!                     └──┘ login (another session), refresh (the same, other tokens)
//! ```
//!
//! An access token is short-lived and checked at each request; a refresh token is used once.
//! Whoever stole one, or lost it to a thief, is found out when the other comes with a token that
//! was rotated away: then the session ends for both.

use std::time::Duration;

use brigade_contracts::{
    Refusal, Secret, Timestamp,
    command::Request,
    event::{USER_LOGGED_IN, USER_LOGGED_OUT, USER_REFRESHED},
    user::{Login, Random, Refresh, Tokens, next_refresh_token, session_of, token},
};
use serde_json::json;

use crate::{
    changes::Fact,
    outcome::{Done, Result},
    security::SecurityKind,
    state::{Rotated, Session, User},
    throttle::{FailureKey, MOST_FAILURES, WINDOW, keys_of},
    unit_of_work::UnitOfWork,
};

/// The lifetime of an access token: the longest time for which a stolen one can be used.
pub const ACCESS_LASTS: Duration = Duration::from_secs(15 * 60);
/// The lifetime of a refresh token: the longest time that an app may stay unopened without a new
/// login.
pub const REFRESH_LASTS: Duration = Duration::from_secs(30 * 24 * 60 * 60);

pub(super) fn login(work: &mut UnitOfWork<'_>, request: &Request, login: &Login) -> Result<Done> {
    let keys = keys_of(work.command);
    if let Some(wait) = throttled(work, &keys)? {
        let detail = json!({ "email": login.email.folded(), "retry_after_ms": wait });
        work.log(SecurityKind::LoginThrottled, &request.address, detail);
        work.keep();
        let message = "too many failed logins; even the right password has to wait";
        let refusal = Refusal::new(429, "too_many_attempts", message);
        return Err(Refusal { retry_after_ms: Some(wait), ..refusal }.into());
    }
    let email = login.email.folded();
    let user = work.load::<User>(&request.address)?;
    let user = user.filter(|user| work[*user].email.folded() == email);
    let right = work.verified(&email, user.map(|user| &work[user].password_hash))?;
    let Some(user) = user.filter(|_| right) else {
        work.changes.failures.extend(keys);
        work.log(SecurityKind::LoginFailed, &request.address, json!({ "email": email }));
        work.keep();
        let message = "there is no user of this email and password";
        return Err(unauthorized("wrong_credentials", message).into());
    };
    work.expect_version(request)?;
    // This says nothing of the source: anybody can log in to an account of their own.
    work.changes.cleared.extend(keys.into_iter().filter(|key| !key.is_of_source()));
    let refresh_token = token(&request.address.id, &work.random()?);
    let (random, now) = (work.random()?, work.now);
    let tokens = issue(&mut work[user], refresh_token, &random, None, now)?;
    work[user].last_login_at = Some(now);
    let data = json!({
        "expires_at": tokens.expires_at, "refresh_expires_at": tokens.refresh_expires_at,
        "source": work.command.source,
    });
    work.record(user, Fact::new(USER_LOGGED_IN, &data));
    work.changes.issued = Some(tokens);
    Ok(Done::ok())
}

/// Returns how long a login has to wait, in milliseconds.
fn throttled(work: &UnitOfWork<'_>, keys: &[FailureKey]) -> Result<Option<u64>> {
    let mut longest = None;
    for key in keys {
        let count = work.failures(key)?;
        if count.failures >= MOST_FAILURES {
            let until = count.oldest.unwrap_or(work.now).plus(WINDOW);
            longest = longest.max(Some(work.now.millis_until(until).max(1)));
        }
    }
    Ok(longest)
}

pub(super) fn refresh(
    work: &mut UnitOfWork<'_>,
    request: &Request,
    refresh: &Refresh,
) -> Result<Done> {
    let used = &refresh.refresh_token;
    let user = work.load::<User>(&request.address)?.ok_or_else(invalid_token)?;
    let session = work[user].session.as_ref().ok_or_else(invalid_token)?;
    let hash = used.sha256();
    // Its answer may have been lost, and only hashes of the tokens in it are left: they are
    // replaced once more.
    let repeats = |rotated: &Rotated| rotated.hash == hash && rotated.by == work.command.command_id;
    if hash != session.refresh_hash && !session.rotated.as_ref().is_some_and(repeats) {
        if session_of(used).is_none_or(|of| of.sha256() != session.hash) {
            return Err(invalid_token().into());
        }
        let fact = end(&mut work[user], "token_reused");
        work.record(user, fact);
        work.log(SecurityKind::RefreshTokenReused, &request.address, json!({}));
        work.keep();
        let message = "this token was used before: the session is ended";
        return Err(unauthorized("token_reused", message).into());
    }
    if work.now >= session.refresh_expires_at {
        return Err(unauthorized("token_expired", "log in again").into());
    }
    work.expect_version(request)?;
    let next = next_refresh_token(used, &work.random()?).ok_or_else(invalid_token)?;
    let rotated = Rotated { hash, by: work.command.command_id.clone() };
    let (random, now) = (work.random()?, work.now);
    let tokens = issue(&mut work[user], next, &random, Some(rotated), now)?;
    let data = json!({
        "expires_at": tokens.expires_at, "refresh_expires_at": tokens.refresh_expires_at,
    });
    work.record(user, Fact::new(USER_REFRESHED, &data));
    work.changes.issued = Some(tokens);
    Ok(Done::ok())
}

pub(super) fn logout(user: &mut User) -> std::result::Result<Fact, Refusal> {
    if user.session.is_none() {
        return Err(Refusal::new(409, "not_logged_in", "there is no session"));
    }
    Ok(end(user, "logout"))
}

fn end(user: &mut User, reason: &str) -> Fact {
    user.session = None;
    Fact::new(USER_LOGGED_OUT, &json!({"reason": reason}))
}

/// Issues new tokens in place of those before, whatever session they were of.
fn issue(
    user: &mut User,
    refresh_token: Secret,
    random: &Random,
    rotated: Option<Rotated>,
    now: Timestamp,
) -> std::result::Result<Tokens, Refusal> {
    let tokens = Tokens {
        access_token: token(&user.head.address.id, random),
        refresh_token,
        expires_at: now.plus(ACCESS_LASTS),
        refresh_expires_at: now.plus(REFRESH_LASTS),
    };
    let of = session_of(&tokens.refresh_token).ok_or_else(invalid_token)?;
    user.session = Some(Session {
        hash: of.sha256(),
        access_hash: tokens.access_token.sha256(),
        access_expires_at: tokens.expires_at,
        refresh_hash: tokens.refresh_token.sha256(),
        refresh_expires_at: tokens.refresh_expires_at,
        rotated,
    });
    Ok(tokens)
}

fn invalid_token() -> Refusal {
    unauthorized("invalid_token", "this is not the token of a session")
}

fn unauthorized(code: &'static str, message: &'static str) -> Refusal {
    Refusal::new(401, code, message)
}
