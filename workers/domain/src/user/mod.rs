//! Users.
//!
//! ```text
//! (nothing) ── register ──► active ──┐ login, refresh, logout: the session (`session`)
//!                             ▲      │ update_profile, change_roles
//!                             └──────┘ subscriptions (`subscription`)
//! ```
//!
//! Neither passwords nor tokens are kept, only what they can be checked by. Hashing a password takes
//! so long that the caller does it before the batch ([`Checked`]); random numbers and the failures
//! that slow guessing down come from the caller too ([`Supplies`]).

mod profile;
mod session;
mod subscription;
mod supplies;
mod throttle;

use brigade_contracts::{
    Body, Email, Part, Refusal, Secret, Timestamp, Token,
    command::Request,
    event::{USER_REGISTERED, USER_ROLES_CHANGED},
    user::{
        Auth, ChangeRoles, MAX_ROLES, ROLE_BY_DEFAULT, Register, Roles, Status, Subscription,
        SubscriptionPart, Verb,
    },
};
use serde_json::{json, value::RawValue};

use super::{
    Head, already_exists,
    draft::{Done, Draft, Extra, Result},
    not_found, raw, too_large,
};

pub use session::{Rotated, Session};
pub use supplies::{Checked, Supplies, Verified};
pub use throttle::{Count, FailureKey, FailureKind, MOST_FAILURES, Throttle, WINDOW, keys_of};

/// A user as SQL keeps it.
#[derive(Clone, Debug, PartialEq)]
pub struct User {
    pub head: Head,
    /// As it was given; unique in its tenant by [`Email::folded`].
    pub email: Email,
    pub profile_id: Token,
    /// In PHC form, with its salt and parameters.
    pub password_hash: Secret,
    pub status: Status,
    pub roles: Vec<Token>,
    pub session: Option<Session>,
    pub last_login_at: Option<Timestamp>,
    pub subscription: Option<Subscription>,
}

/// Whether a verb is for those who have no session yet. They are told neither whether there is such
/// a user nor its version.
pub(super) fn is_for_strangers(body: &Body) -> bool {
    matches!(body, Body::User(Verb::Login(_) | Verb::Refresh(_)))
}

/// Whether who sends a verb is told the user's version where it is refused. It grows with each login,
/// so a stranger who tries to register the same id does not learn it either.
pub(super) fn tells_version(body: &Body) -> bool {
    !is_for_strangers(body) && !matches!(body, Body::User(Verb::Register(_)))
}

pub(super) fn decide(draft: &mut Draft<'_>, request: &Request, verb: &Verb) -> Result<Done> {
    match verb {
        Verb::Register(said) => return register(draft, request, said),
        Verb::Login(said) => return session::login(draft, request, said),
        Verb::Refresh(said) => return session::refresh(draft, request, said),
        _ => {}
    }
    let user = draft.user(&request.address)?.ok_or_else(not_found)?;
    match verb {
        Verb::Register(_) | Verb::Login(_) | Verb::Refresh(_) => unreachable!("decided above"),
        Verb::Logout(_) => session::logout(draft, user),
        Verb::UpdateProfile(said) => profile::update(draft, user, said),
        Verb::ChangeRoles(said) => change_roles(draft, user, said),
        Verb::RegisterSubscription(said) => subscription::register(draft, user, said),
        Verb::ActivateSubscription(said) => subscription::activate(draft, user, said),
        Verb::CancelSubscription(said) => subscription::cancel(draft, user, said),
    }
}

fn register(draft: &mut Draft<'_>, request: &Request, said: &Register) -> Result<Done> {
    let address = &request.address;
    if draft.user(address)?.is_some() {
        return Err(already_exists().into());
    }
    profile::require_free(draft, address, &said.email)?;
    let user = User {
        head: Head::unborn(address.clone(), draft.now),
        email: said.email.clone(),
        profile_id: said.profile_id.clone(),
        password_hash: draft.hashed_password()?,
        status: Status::Active,
        roles: vec![Token::new(ROLE_BY_DEFAULT)?],
        session: None,
        last_login_at: None,
        subscription: None,
    };
    let data = json!({"profile_id": said.profile_id, "email": said.email});
    draft.record(user, USER_REGISTERED, &data);
    Ok(Done::created())
}

fn change_roles(draft: &mut Draft<'_>, mut user: User, said: &ChangeRoles) -> Result<Done> {
    let mut roles: Vec<Token> = Vec::new();
    for role in &said.roles {
        if !roles.contains(role) {
            roles.push(role.clone());
        }
    }
    if roles.len() > MAX_ROLES {
        return Err(too_large("at most 32 roles").into());
    }
    user.roles = roles;
    let data = json!({"roles": user.roles});
    draft.record(user, USER_ROLES_CHANGED, &data);
    Ok(Done::ok())
}

impl User {
    #[must_use]
    pub fn auth(&self) -> Auth {
        let (version, at) = self.head.part(Part::Auth);
        let session = self.session.as_ref();
        Auth {
            version,
            at,
            user: self.head.address.id.clone(),
            profile_id: self.profile_id.clone(),
            email: self.email.clone(),
            status: self.status,
            access_hash: session.map(|session| session.access_hash.clone()),
            access_expires_at: session.map(|session| session.access_expires_at),
            refresh_hash: session.map(|session| session.refresh_hash.clone()),
            refresh_expires_at: session.map(|session| session.refresh_expires_at),
            last_login_at: self.last_login_at,
        }
    }

    /// See [`super::State::part`]: the value of `user_state`, with hashes in `auth`.
    pub(super) fn part(&self, part: Part) -> Box<RawValue> {
        let (version, at) = self.head.part(part);
        match part {
            Part::Auth => raw(&self.auth()),
            Part::Subscription => {
                raw(&SubscriptionPart::new(version, at, self.subscription.as_ref()))
            }
            Part::Roles => raw(&Roles { version, at, roles: self.roles.clone() }),
            Part::Core | Part::Payments => raw(&()),
        }
    }

    /// The parts as outcomes tell them: without hashes.
    pub(super) fn shown(&self) -> Vec<Extra> {
        vec![
            ("auth", raw(&self.auth().shown())),
            ("subscription", self.part(Part::Subscription)),
            ("roles", self.part(Part::Roles)),
        ]
    }
}

fn unauthorized(code: &'static str, message: &'static str) -> Refusal {
    Refusal::new(401, code, message)
}

#[cfg(test)]
mod tests;
