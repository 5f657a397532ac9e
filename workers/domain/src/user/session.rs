//! Sessions: several a user, each with tokens of its own.
//!
//! ```text
//! (none) ── login ──► live ── logout, end_session, a rotated token used again ──► (none)
//!                     │  ▲
//!                     └──┘ refresh (other tokens)
//! ```
//!
//! An access token is short-lived and checked at each request; a refresh token is used once.
//! Whoever stole one, or lost it to a thief, is found out when the other comes with a token that
//! was rotated away: then the session ends for both. Two tabs of one browser that refresh at the
//! same moment look like that too, so a token that was rotated away less than [`RACE`] ago is
//! answered with tokens of its own; as soon as any of those that are good is used, the others are
//! rotated away with it.

use std::time::Duration;

use brigade_contracts::{
    Address, Refusal, Secret, Timestamp, Token,
    command::Request,
    event::{USER_LOGGED_IN, USER_LOGGED_OUT, USER_REFRESHED},
    user::{
        Login, Logout, MAX_SESSIONS, Refresh, Status, Tokens, next_refresh_token, session_of, token,
    },
};
use serde_json::json;

use super::{
    account::require_active,
    passwords::{throttled, too_many},
};
use crate::{
    changes::Fact,
    outcome::{Done, Result},
    security::SecurityKind,
    state::{Issued, Rotated, Session, User},
    throttle::keys_of,
    unit_of_work::{Handle, UnitOfWork},
};

/// The lifetime of an access token: the longest time for which a stolen one can be used.
pub const ACCESS_LASTS: Duration = Duration::from_secs(15 * 60);
/// The lifetime of a refresh token: the longest time that an app may stay unopened without a new
/// login.
pub const REFRESH_LASTS: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// The lifetime of a session, however often it is refreshed.
pub const SESSION_LASTS: Duration = Duration::from_secs(90 * 24 * 60 * 60);
/// The time for which a refresh token that was used is answered once more: tabs that wake up
/// together refresh within it. A thief who comes later ends the session.
pub const RACE: Duration = Duration::from_secs(10);
/// Most refreshes that race one.
const MAX_RACED: usize = 4;

pub(super) fn login(work: &mut UnitOfWork<'_>, request: &Request, login: &Login) -> Result<Done> {
    let keys = keys_of(work.command);
    let email = login.email.folded();
    let user = work.load::<User>(&request.address)?;
    let has_email = |user: &User| user.email.folded() == email && user.status != Status::Erased;
    let user = user.filter(|user| has_email(&work[*user]));
    let is_known = user.is_some_and(|user| work[user].knows(work.command.source));
    if let Some(wait) = throttled(work, &keys, is_known)? {
        let detail = json!({ "email": email, "retry_after_ms": wait });
        work.log(SecurityKind::LoginThrottled, &request.address, detail);
        work.keep();
        return Err(too_many(wait).into());
    }
    let right = work.verified(user.map(|user| &work[user].password_hash))?;
    let Some(user) = user.filter(|_| right) else {
        work.changes.failures.extend(keys);
        work.log(SecurityKind::LoginFailed, &request.address, json!({ "email": email }));
        work.keep();
        let message = "there is no user of this email and password";
        return Err(unauthorized("wrong_credentials", message).into());
    };
    require_active(work, user)?;
    work.expect_version(request)?;
    // Of the same password, with the parameters of today.
    if let Some(hash) = work.rehashed_password() {
        work[user].password_hash = hash.clone();
    }
    // This says nothing of the source: anybody can log in to an account of their own.
    work.changes.cleared.extend(keys.into_iter().filter(|key| !key.is_of_source()));
    if let Some(source) = work.command.source {
        work[user].learn(source);
    }
    begin(work, user, login)
}

/// Begins a session, in the place of the one that the very command has begun before, whose answer may
/// have been lost.
fn begin(work: &mut UnitOfWork<'_>, user: Handle<User>, login: &Login) -> Result<Done> {
    let id = work[user].head.address.id.clone();
    let refresh_token = token(&id, &work.random()?);
    let access_token = token(&id, &work.random()?);
    let (now, by) = (work.now, work.command.command_id.clone());
    let session = Session {
        hash: session_of(&refresh_token).ok_or_else(invalid_token)?.sha256(),
        name: login.session_name.clone(),
        began_at: now,
        begun_by: Some(by.clone()),
        used_at: now,
        refresh_expires_at: now.plus(REFRESH_LASTS),
        issued: Issued::new(&refresh_token, &access_token, None, now),
        raced: Vec::new(),
        rotated: None,
    };
    let tokens = tokens(&session, refresh_token, access_token);
    let session_id = session.id();
    let sessions = &mut work[user].sessions;
    sessions.retain(|other| other.begun_by.as_ref() != Some(&by) && now < other.refresh_expires_at);
    let surplus = (sessions.len() + 1).saturating_sub(MAX_SESSIONS);
    let ended: Vec<_> = sessions.drain(..surplus).map(|session| session.id()).collect();
    sessions.push(session);
    work[user].last_login_at = Some(now);
    let data = json!({
        "session": session_id, "expires_at": tokens.expires_at,
        "refresh_expires_at": tokens.refresh_expires_at, "ended": ended,
    });
    work.record(user, Fact::new(USER_LOGGED_IN, &data));
    work.changes.issued = Some(tokens);
    Ok(Done::ok().with("session", &session_id))
}

pub(super) fn refresh(
    work: &mut UnitOfWork<'_>,
    request: &Request,
    refresh: &Refresh,
) -> Result<Done> {
    let used = &refresh.refresh_token;
    let of = session_of(used).ok_or_else(invalid_token)?.sha256();
    let user = work.load::<User>(&request.address)?.ok_or_else(invalid_token)?;
    let at = work[user].sessions.iter().position(|session| session.hash == of);
    let at = at.ok_or_else(invalid_token)?;
    let (now, by) = (work.now, work.command.command_id.clone());
    let mut session = work[user].sessions[at].clone();
    if !session.use_refresh_token(&used.sha256(), &by, now) {
        let fact = end(&mut work[user], "token_reused", |session| session.hash == of);
        work.record(user, fact);
        work.log(SecurityKind::RefreshTokenReused, &request.address, json!({}));
        work.keep();
        let message = "this token was used before: the session is ended";
        return Err(unauthorized("token_reused", message).into());
    }
    if now >= session.refresh_expires_at {
        return Err(unauthorized("token_expired", "log in again").into());
    }
    work.expect_version(request)?;
    let next = next_refresh_token(used, &work.random()?).ok_or_else(invalid_token)?;
    let access = token(&request.address.id, &work.random()?);
    session.used_at = now;
    session.refresh_expires_at = now.plus(REFRESH_LASTS).min(session.began_at.plus(SESSION_LASTS));
    session.issued = Issued::new(&next, &access, Some(by), now.min(session.last_issue()));
    let tokens = tokens(&session, next, access);
    let id = session.id();
    let sessions = &mut work[user].sessions;
    sessions.remove(at);
    sessions.push(session);
    let data = json!({
        "session": id, "expires_at": tokens.expires_at,
        "refresh_expires_at": tokens.refresh_expires_at,
    });
    work.record(user, Fact::new(USER_REFRESHED, &data));
    work.changes.issued = Some(tokens);
    Ok(Done::ok().with("session", &id))
}

impl Session {
    /// Uses a refresh token of the session, in whose place the caller then issues another one. It
    /// returns false for one that must not be used any more.
    fn use_refresh_token(&mut self, hash: &str, by: &Token, now: Timestamp) -> bool {
        if self.live().any(|issued| issued.refresh_hash == hash) {
            let others = self.live().map(|issued| issued.refresh_hash.clone());
            let others = others.filter(|other| other != hash).collect();
            self.rotated = Some(Rotated { hash: hash.to_owned(), others, at: Some(now) });
            self.raced.clear();
            return true;
        }
        let Some(rotated) = &self.rotated else { return false };
        let was_good = rotated.hash == hash || rotated.others.iter().any(|other| other == hash);
        if was_good && self.issued.by.as_ref() == Some(by) {
            // The answer of the very command may have been lost, and only hashes of its tokens are
            // left: they are replaced.
            return true;
        }
        if was_good && self.raced.iter().any(|issued| issued.by.as_ref() == Some(by)) {
            self.raced.retain(|issued| issued.by.as_ref() != Some(by));
            self.raced.push(self.issued.clone());
            return true;
        }
        let races = was_good && rotated.at.is_some_and(|at| now < at.plus(RACE));
        if !races || self.raced.len() >= MAX_RACED {
            return false;
        }
        self.raced.push(self.issued.clone());
        true
    }

    /// Returns the time at which the last access token of the session has to be issued for it to end
    /// with the session.
    fn last_issue(&self) -> Timestamp {
        self.began_at.plus(SESSION_LASTS.saturating_sub(ACCESS_LASTS))
    }
}

impl Issued {
    fn new(refresh: &Secret, access: &Secret, by: Option<Token>, at: Timestamp) -> Self {
        Self {
            access_hash: access.sha256(),
            access_expires_at: at.plus(ACCESS_LASTS),
            refresh_hash: refresh.sha256(),
            by,
        }
    }
}

/// Ends the session that the command was sent in. Where it names none, as that of a backend, or
/// all are to end, it ends all.
pub(super) fn logout(
    work: &mut UnitOfWork<'_>,
    address: &Address,
    logout: &Logout,
) -> Result<Done> {
    let user = work.existing::<User>(address)?;
    let own = own(work, address).filter(|_| logout.all != Some(true));
    let ends = |session: &Session| own.as_ref().is_none_or(|own| session.id() == *own);
    if !work[user].sessions.iter().any(ends) {
        return Err(Refusal::new(409, "not_logged_in", "there is no session").into());
    }
    let fact = end(&mut work[user], "logout", ends);
    work.record(user, fact);
    Ok(Done::ok())
}

/// Returns the session that a user sends a command in.
pub(super) fn own(work: &UnitOfWork<'_>, user: &Address) -> Option<Token> {
    let is_own = work.command.actor.as_ref() == Some(&user.id);
    work.command.session.clone().filter(|_| is_own)
}

/// Ends all sessions, and returns them.
pub(super) fn end_all(user: &mut User) -> Vec<Token> {
    end_all_but(user, None)
}

/// Ends all other sessions, and returns them.
pub(super) fn end_all_but(user: &mut User, own: Option<&Token>) -> Vec<Token> {
    let ended = user.sessions.extract_if(.., |session| Some(&session.id()) != own);
    ended.map(|session| session.id()).collect()
}

/// Ends one session.
pub(super) fn end_one(user: &mut User, session: &Token) -> std::result::Result<Fact, Refusal> {
    let named = |one: &Session| one.id() == *session;
    if !user.sessions.iter().any(named) {
        let message = "the user has no session of this id";
        return Err(Refusal::new(404, "session_not_found", message));
    }
    Ok(end(user, "end_session", named))
}

/// Ends sessions.
fn end(user: &mut User, reason: &str, mut ends: impl FnMut(&Session) -> bool) -> Fact {
    let ended: Vec<_> = user.sessions.extract_if(.., |session| ends(session)).collect();
    let sessions: Vec<_> = ended.iter().map(Session::id).collect();
    Fact::new(USER_LOGGED_OUT, &json!({ "reason": reason, "sessions": sessions }))
}

/// Returns the tokens that were issued for a session, for their sender.
fn tokens(session: &Session, refresh_token: Secret, access_token: Secret) -> Tokens {
    Tokens {
        access_token,
        refresh_token,
        expires_at: session.issued.access_expires_at,
        refresh_expires_at: session.refresh_expires_at,
    }
}

fn invalid_token() -> Refusal {
    unauthorized("invalid_token", "this is not the token of a session")
}

fn unauthorized(code: &'static str, message: &'static str) -> Refusal {
    Refusal::new(401, code, message)
}
