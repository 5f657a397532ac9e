use std::net::IpAddr;

use brigade_contracts::{
    Email, Part, Secret, Timestamp, Token,
    user::{Auth, MANAGER, Roles, ShownAuth, Status, Subscription, SubscriptionPart},
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::session::Session;
use crate::{head::Head, json::raw, throttle::network};

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
    /// The token by which a new password may be chosen.
    pub reset: Option<Reset>,
    pub roles: Vec<Token>,
    /// In the order of their last use.
    pub sessions: Vec<Session>,
    /// The sources that logins came from, as [`network`] names them, the last one last.
    pub known_sources: Vec<String>,
    pub last_login_at: Option<Timestamp>,
    pub subscription: Option<Subscription>,
}

/// A token by which a new password may be chosen, once.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reset {
    /// Lower-case hex SHA-256 of the token.
    pub hash: String,
    pub expires_at: Timestamp,
}

/// Most sources that are known of a user.
const MAX_KNOWN_SOURCES: usize = 16;

impl User {
    /// Returns whether the user has logged in from a source.
    #[must_use]
    pub fn knows(&self, source: Option<IpAddr>) -> bool {
        source.is_some_and(|source| self.known_sources.contains(&network(source)))
    }

    /// Returns whether the user looks after the others: one who is suspended does not.
    #[must_use]
    pub fn is_manager(&self) -> bool {
        self.status == Status::Active && self.roles.iter().any(|role| role.as_str() == MANAGER)
    }

    /// Records that the user has logged in from a source.
    pub(crate) fn learn(&mut self, source: IpAddr) {
        let source = network(source);
        self.known_sources.retain(|known| *known != source);
        self.known_sources.push(source);
        let surplus = self.known_sources.len().saturating_sub(MAX_KNOWN_SOURCES);
        self.known_sources.drain(..surplus);
    }

    #[must_use]
    pub fn auth(&self) -> Auth {
        let (version, at) = self.head.part(Part::Auth);
        let session = self.sessions.last();
        Auth {
            version,
            at,
            user: self.head.address.id.clone(),
            profile_id: self.profile_id.clone(),
            email: self.email.clone(),
            status: self.status,
            access_hash: session.map(|session| session.issued.access_hash.clone()),
            access_expires_at: session.map(|session| session.issued.access_expires_at),
            refresh_hash: session.map(|session| session.issued.refresh_hash.clone()),
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

    /// Returns the parts as outcomes carry them, which are stored: without hashes and email.
    pub(crate) fn public_parts(&self) -> Vec<(&'static str, Box<RawValue>)> {
        vec![
            ("auth", raw(&ShownAuth { email: None, ..self.auth().shown() })),
            ("subscription", self.part(Part::Subscription)),
            ("roles", self.part(Part::Roles)),
        ]
    }
}
