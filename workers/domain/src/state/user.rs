use brigade_contracts::{
    Email, Part, Secret, Timestamp, Token,
    user::{Auth, Roles, Status, Subscription, SubscriptionPart},
};
use serde_json::value::RawValue;

use super::session::Session;
use crate::{head::Head, json::raw};

/// A user as SQL keeps it.
#[derive(Clone, Debug, PartialEq)]
pub struct User {
    pub head: Head,
    /// Spelled as it was given; unique in its tenant by [`Email::folded`].
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

    /// Returns a part ([`super::State::part`]): the value of `user_state`, with hashes in `auth`.
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

    /// Returns the parts as outcomes carry them: without hashes.
    pub(crate) fn public_parts(&self) -> Vec<(&'static str, Box<RawValue>)> {
        vec![
            ("auth", raw(&self.auth().shown())),
            ("subscription", self.part(Part::Subscription)),
            ("roles", self.part(Part::Roles)),
        ]
    }
}
