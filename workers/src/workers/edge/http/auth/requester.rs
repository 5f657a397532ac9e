//! The senders of requests, and their roles.

use brigade_contracts::{
    IdSpace, Token,
    user::{MANAGER, Valid},
};

use crate::workers::edge::{admission::Occupant, http::policy::RequiredRole};

pub const STAFF: &str = "staff";
pub const GATEWAY: &str = "gateway";

/// The sender of a request.
#[derive(Clone, Debug)]
pub enum Requester {
    /// Somebody without a token, who may only ask for one.
    Anonymous,
    /// Anybody, where HTTP is open: trusted like a producer.
    Trusted,
    /// The user of a session.
    User(Valid),
}

impl Requester {
    /// Returns the user of the session, if there is one.
    #[must_use]
    pub fn user(&self) -> Option<&Token> {
        match self {
            Self::Anonymous | Self::Trusted => None,
            Self::User(valid) => Some(&valid.user),
        }
    }

    /// Returns the session of the access token, if there is one.
    #[must_use]
    pub fn session(&self) -> Option<&Token> {
        match self {
            Self::Anonymous | Self::Trusted => None,
            Self::User(valid) => valid.session.as_ref(),
        }
    }

    /// Returns the name space of the Command-Ids of this sender, who has been identified.
    #[must_use]
    pub fn id_space(&self) -> IdSpace {
        self.user().map_or(IdSpace::Nats, |user| IdSpace::User(user.clone()))
    }

    /// Returns whom its requests and streams count for.
    #[must_use]
    pub fn occupant<'a>(&'a self, tenant: &'a Token) -> Occupant<'a> {
        let user = self.user().map(Token::as_str);
        Occupant { tenant: tenant.as_str(), user, is_staff: self.is_staff() }
    }

    pub fn is_staff(&self) -> bool {
        self.has_role(STAFF) || self.is_manager()
    }

    pub fn is_manager(&self) -> bool {
        self.has_role(MANAGER)
    }

    /// Returns whether it may do this with what is anybody's.
    pub fn is_trusted_for(&self, role: RequiredRole) -> bool {
        self.is_staff() || (role == RequiredRole::PayerOrGateway && self.has_role(GATEWAY))
    }

    pub fn has_role(&self, role: &str) -> bool {
        match self {
            Self::Anonymous => false,
            Self::Trusted => true,
            Self::User(valid) => valid.roles.iter().any(|has| has.as_str() == role),
        }
    }
}
