//! Who asks, by the access token of a session, which is confirmed with SQL at each request.

use axum::http::{HeaderMap, header::AUTHORIZATION};
use brigade_contracts::{
    Address, Aggregate, Refusal, Secret, Token,
    user::{Valid, Validate, user_of},
};

use super::head::one;
use crate::{
    edge::{Edge, users::invalid_token},
    runtime::http::Problem,
};

const STAFF: &str = "staff";
const MANAGER: &str = "manager";

/// Who asks.
#[derive(Clone, Debug)]
pub(in crate::edge) enum Who {
    /// Somebody who has no token yet, and asks for nothing but one.
    Nobody,
    /// Anybody, where HTTP is open: trusted like a producer.
    Trusted,
    /// The user of a session.
    User(Valid),
}

impl Who {
    /// The user, where it is one.
    #[must_use]
    pub fn user(&self) -> Option<&Token> {
        match self {
            Self::Nobody | Self::Trusted => None,
            Self::User(valid) => Some(&valid.user),
        }
    }

    /// Whether this may do what staff may.
    #[must_use]
    pub fn is_staff(&self) -> bool {
        self.has(STAFF) || self.is_manager()
    }

    /// Whether this may do what a manager may.
    #[must_use]
    pub fn is_manager(&self) -> bool {
        self.has(MANAGER)
    }

    fn has(&self, role: &str) -> bool {
        match self {
            Self::Nobody => false,
            Self::Trusted => true,
            Self::User(valid) => valid.roles.iter().any(|has| has.as_str() == role),
        }
    }
}

impl Edge {
    /// Who sent a request to this tenant.
    ///
    /// # Errors
    /// 401 without the token of a session; `503 unconfirmed` while nobody can tell.
    pub(in crate::edge) async fn who(
        &self,
        tenant: &Token,
        headers: &HeaderMap,
    ) -> Result<Who, Problem> {
        let Some(credentials) = one(headers, AUTHORIZATION.as_str())? else {
            return if self.cx.http.open { Ok(Who::Trusted) } else { Err(missing_token()) };
        };
        let token = bearer(credentials).ok_or_else(missing_token)?;
        let invalid = || Problem::from(invalid_token());
        let access_token = Secret::new(token.to_owned()).map_err(|_| invalid())?;
        let id = user_of(&access_token).ok_or_else(invalid)?;
        let user = Address { tenant: tenant.clone(), aggregate: Aggregate::User, id };
        Ok(Who::User(self.valid(user, &Validate { access_token }).await?))
    }

    /// Whether an aggregate's view may be read.
    ///
    /// # Errors
    /// `403 not_allowed`, of what is not there as well.
    pub(in crate::edge) async fn may_read(
        &self,
        who: &Who,
        _address: &Address,
    ) -> Result<(), Problem> {
        if who.is_staff() { Ok(()) } else { Err(not_allowed()) }
    }

    /// Whether a command may be sent.
    ///
    /// # Errors
    /// `403 not_allowed`, of what is not there as well.
    pub(super) fn may_send(&self, who: &Who) -> Result<(), Problem> {
        if matches!(who, Who::Nobody) || who.is_staff() { Ok(()) } else { Err(not_allowed()) }
    }

    /// Whether lists may be read.
    ///
    /// # Errors
    /// `403 not_allowed`.
    pub(in crate::edge) fn may_list(&self, who: &Who) -> Result<(), Problem> {
        if who.is_staff() { Ok(()) } else { Err(not_allowed()) }
    }
}

/// The token of `Bearer <token>`.
fn bearer(credentials: &str) -> Option<&str> {
    let (scheme, token) = credentials.split_once(' ')?;
    scheme.eq_ignore_ascii_case("Bearer").then(|| token.trim_matches(' '))
}

fn missing_token() -> Problem {
    let message = "this needs the header Authorization: Bearer <access token>";
    Refusal::new(401, "missing_token", message).into()
}

pub(super) fn not_allowed() -> Problem {
    let message = "this is not there, or not for the user of this token";
    Refusal::new(403, "not_allowed", message).into()
}
