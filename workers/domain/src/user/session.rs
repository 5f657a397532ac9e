//! Sessions: at most one a user.
//!
//! ```text
//! (none) ── login ──► live ── logout, a rotated token used again ──► (none)
//!                     │  ▲
//!                     └──┘ login (another session), refresh (the same, other tokens)
//! ```
//!
//! An access token is short-lived and checked at each request; a refresh token is used once. Whoever
//! stole one, or lost it to a thief, is found out when the other comes with a token that was rotated
//! away: then the session ends for both.

use std::time::Duration;

use brigade_contracts::{
    Refusal, Secret, Timestamp, Token,
    command::Request,
    event::{USER_LOGGED_IN, USER_LOGGED_OUT, USER_REFRESHED},
    user::{Login, Refresh, Tokens, next_refresh_token, session_of, token},
};
use serde_json::json;

use super::{
    super::draft::{Done, Draft, Result},
    User, throttle, unauthorized,
};

/// From issue to expiry of an access token: how long a stolen one is good for at most.
pub const ACCESS_LASTS: Duration = Duration::from_secs(15 * 60);
/// The same of a refresh token: how long an app may stay unopened until a password is asked for.
pub const REFRESH_LASTS: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// What is kept of a session. The hashes are lower-case hex SHA-256.
#[derive(Clone, Debug, PartialEq)]
pub struct Session {
    /// Of what all its refresh tokens have in common.
    pub hash: String,
    pub access_hash: String,
    pub access_expires_at: Timestamp,
    pub refresh_hash: String,
    pub refresh_expires_at: Timestamp,
    pub rotated: Option<Rotated>,
}

/// The refresh token before the present one.
#[derive(Clone, Debug, PartialEq)]
pub struct Rotated {
    pub hash: String,
    /// The Command-Id of the `refresh` that it was used in.
    pub by: Token,
}

pub(super) fn login(draft: &mut Draft<'_>, request: &Request, said: &Login) -> Result<Done> {
    let keys = throttle::keys_of(draft.command);
    if let Some(wait) = draft.throttled(&keys)? {
        let message = "too many failed logins; even the right password has to wait";
        let refusal = Refusal::new(429, "too_many_attempts", message);
        return Err(Refusal { retry_after_ms: Some(wait), ..refusal }.into());
    }
    let email = said.email.folded();
    let user = draft.user(&request.address)?.filter(|user| user.email.folded() == email);
    let right = draft.verified(&email, user.as_ref())?;
    let Some(mut user) = user.filter(|_| right) else {
        draft.changes.failures.extend(keys);
        draft.keep();
        let message = "there is no user of this email and password";
        return Err(unauthorized("wrong_credentials", message).into());
    };
    draft.expect_version(request)?;
    // Of the source it says nothing: anybody can log in to an account of their own.
    draft.changes.cleared.extend(keys.into_iter().filter(|key| !key.is_of_source()));
    let refresh_token = token(&request.address.id, &draft.random()?);
    let tokens = issue(draft, &mut user, refresh_token, None)?;
    user.last_login_at = Some(draft.now);
    let data = json!({
        "expires_at": tokens.expires_at, "refresh_expires_at": tokens.refresh_expires_at,
        "source": draft.command.source,
    });
    draft.record(user, USER_LOGGED_IN, &data);
    draft.changes.tokens_told = Some(tokens);
    Ok(Done::ok())
}

pub(super) fn refresh(draft: &mut Draft<'_>, request: &Request, said: &Refresh) -> Result<Done> {
    let used = &said.refresh_token;
    let user = draft.user(&request.address)?;
    let session = user.as_ref().and_then(|user| user.session.clone());
    let (Some(mut user), Some(session)) = (user, session) else { return Err(invalid_token()) };
    let hash = used.sha256();
    // Its answer may have been lost, and only hashes of the tokens in it are left: they are
    // replaced once more.
    let repeats =
        |rotated: &Rotated| rotated.hash == hash && rotated.by == draft.command.command_id;
    if hash != session.refresh_hash && !session.rotated.as_ref().is_some_and(repeats) {
        if session_of(used).is_none_or(|of| of.sha256() != session.hash) {
            return Err(invalid_token());
        }
        end(draft, user, "token_reused");
        draft.keep();
        let message = "this token was used before: the session is ended";
        return Err(unauthorized("token_reused", message).into());
    }
    if draft.now >= session.refresh_expires_at {
        return Err(unauthorized("token_expired", "log in again").into());
    }
    draft.expect_version(request)?;
    let next = next_refresh_token(used, &draft.random()?).ok_or_else(invalid_token)?;
    let rotated = Rotated { hash, by: draft.command.command_id.clone() };
    let tokens = issue(draft, &mut user, next, Some(rotated))?;
    let data = json!({
        "expires_at": tokens.expires_at, "refresh_expires_at": tokens.refresh_expires_at,
    });
    draft.record(user, USER_REFRESHED, &data);
    draft.changes.tokens_told = Some(tokens);
    Ok(Done::ok())
}

pub(super) fn logout(draft: &mut Draft<'_>, user: User) -> Result<Done> {
    if user.session.is_none() {
        return Err(Refusal::new(409, "not_logged_in", "there is no session").into());
    }
    end(draft, user, "logout");
    Ok(Done::ok())
}

fn end(draft: &mut Draft<'_>, mut user: User, reason: &str) {
    user.session = None;
    draft.record(user, USER_LOGGED_OUT, &json!({"reason": reason}));
}

/// New tokens instead of those before, whatever session they were of.
fn issue(
    draft: &mut Draft<'_>,
    user: &mut User,
    refresh_token: Secret,
    rotated: Option<Rotated>,
) -> Result<Tokens> {
    let access_token = token(&user.head.address.id, &draft.random()?);
    let tokens = Tokens {
        access_token,
        refresh_token,
        expires_at: draft.now.plus(ACCESS_LASTS),
        refresh_expires_at: draft.now.plus(REFRESH_LASTS),
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

fn invalid_token() -> super::super::draft::Stop {
    unauthorized("invalid_token", "this is not the token of a session").into()
}
