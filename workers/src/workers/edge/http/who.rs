//! Who asks, by the access token of a session, which is confirmed with SQL at each request, and
//! what they may ([`super::rules`]).

use std::net::IpAddr;

use axum::http::{
    HeaderMap,
    header::{AUTHORIZATION, HOST},
    uri::Authority,
};
use brigade_contracts::{
    Address, Aggregate, Refusal, Secret, Token, payment,
    user::{Valid, Validate, user_of},
};
use serde_json::Value;

use super::{
    admission::Admission,
    head::one,
    rules::{self, Least, Rule},
};
use crate::{
    runtime::http::Problem,
    workers::edge::{Edge, reply::Reply, users::invalid_token},
};

const STAFF: &str = "staff";
const MANAGER: &str = "manager";

/// Who asks.
#[derive(Clone, Debug)]
pub(in crate::workers::edge) enum Who {
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

    fn is_staff(&self) -> bool {
        self.has(STAFF) || self.is_manager()
    }

    fn is_manager(&self) -> bool {
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
    pub(in crate::workers::edge) async fn who(
        &self,
        tenant: &Token,
        headers: &HeaderMap,
    ) -> Result<Who, Problem> {
        let Some(credentials) = one(headers, AUTHORIZATION.as_str())? else {
            let trusted = self.settings.http.open && is_for_loopback(headers);
            return if trusted { Ok(Who::Trusted) } else { Err(missing_token()) };
        };
        let token = bearer(credentials).ok_or_else(missing_token)?;
        let invalid = || Problem::from(invalid_token());
        let access_token = Secret::new(token.to_owned()).map_err(|_| invalid())?;
        let id = user_of(&access_token).ok_or_else(invalid)?;
        let user = Address { tenant: tenant.clone(), aggregate: Aggregate::User, id };
        Ok(Who::User(self.valid(user, &Validate { access_token }).await?))
    }

    /// Who sent a request to this tenant, which takes up one of the tenant's places from here on.
    ///
    /// # Errors
    /// Those of [`Edge::who`]; `429 too_many` and `503 busy` where there is no place.
    pub(super) async fn admit(
        &self,
        admission: &Admission,
        tenant: &Token,
        headers: &HeaderMap,
    ) -> Result<Who, Problem> {
        let who = self.who(tenant, headers).await?;
        admission.confirmed(tenant)?;
        Ok(who)
    }

    /// Whether what an aggregate shows may be read, at once and as a stream.
    ///
    /// # Errors
    /// `403 not_allowed`, of what is not there as well; `503 unconfirmed`.
    pub(in crate::workers::edge) async fn may_read(
        &self,
        who: &Who,
        address: &Address,
    ) -> Result<(), Problem> {
        // A manager looks after the users.
        if address.aggregate == Aggregate::User && who.is_manager() {
            return Ok(());
        }
        self.may(who, rules::of_view(address.aggregate), address).await
    }

    /// Whether lists may be read, at once and as streams.
    ///
    /// # Errors
    /// `403 not_allowed`.
    pub(in crate::workers::edge) fn may_list(&self, who: &Who) -> Result<(), Problem> {
        if who.is_staff() { Ok(()) } else { Err(needs_role(STAFF)) }
    }

    /// Whether a command may be sent.
    ///
    /// # Errors
    /// `403 not_allowed`, of what is not there as well; `503 unconfirmed`; 400 and 422 for a
    /// payload that does not say whom it is about.
    pub(super) async fn may_send(
        &self,
        who: &Who,
        rule: Rule,
        address: &Address,
        verb: &Token,
        payload: &[u8],
    ) -> Result<(), Problem> {
        if rule.least == Least::Anybody {
            return Ok(());
        }
        // What is no JSON names nobody, forces nothing, and is refused where commands are decided.
        let fields: Value = serde_json::from_slice(payload).unwrap_or_default();
        let rule = rule.with(&fields);
        let customer = who.user().filter(|_| !who.is_staff());
        if customer.is_some_and(|user| !rule.is_for_customer(user.as_str(), &fields)) {
            return Err(not_allowed());
        }
        let paid_for = match customer.and(Some((address.aggregate, verb.as_str()))) {
            Some((Aggregate::Payment, "initiate")) => target(address, payload)?,
            _ => None,
        };
        self.may(who, rule.least, paid_for.as_ref().unwrap_or(address)).await
    }

    async fn may(&self, who: &Who, least: Least, thing: &Address) -> Result<(), Problem> {
        let may = match (least, who.user()) {
            (Least::Never, _) => false,
            (Least::Anybody, _) => true,
            (Least::Customer, user) => user.is_some() || who.is_staff(),
            (Least::Staff, _) => who.is_staff(),
            (Least::Manager, _) => who.is_manager(),
            (Least::Oneself, Some(user)) => *user == thing.id,
            (Least::Owner | Least::Claimer, Some(user)) if !who.is_staff() => {
                let owned = self.owners.get(thing.clone()).await;
                let owned = owned.map_err(|_| Reply::unconfirmed())?.unwrap_or_default();
                match least {
                    Least::Claimer => owned.may_be_claimed_by(user),
                    _ => owned.is_of(user),
                }
            }
            (Least::Oneself | Least::Owner | Least::Claimer, _) => who.is_staff(),
        };
        match least {
            _ if may => Ok(()),
            // A role shows nothing of what is there.
            Least::Staff => Err(needs_role(STAFF)),
            Least::Manager => Err(needs_role(MANAGER)),
            _ => Err(not_allowed()),
        }
    }
}

/// What a payment is for. Read like where commands are decided, so that both mean the same.
fn target(payment: &Address, payload: &[u8]) -> Result<Option<Address>, Refusal> {
    let Some(payment::Verb::Initiate(initiate)) = payment::Verb::decode("initiate", payload)?
    else {
        return Ok(None);
    };
    let (aggregate, id) = match initiate.target {
        payment::Target::Cart(id) => (Aggregate::Cart, id),
        payment::Target::Order(id) => (Aggregate::Order, id),
    };
    Ok(Some(Address { tenant: payment.tenant.clone(), aggregate, id }))
}

/// Whether a request names this machine as its host, and comes through no proxy. A page in a
/// browser that has its own name resolved to this machine does not, and must not be trusted; nor
/// whom a proxy on this machine lets in.
fn is_for_loopback(headers: &HeaderMap) -> bool {
    if ["forwarded", "x-forwarded-for", "via"].iter().any(|name| headers.contains_key(*name)) {
        return false;
    }
    let host = headers.get(HOST).and_then(|host| host.to_str().ok()?.parse::<Authority>().ok());
    host.is_some_and(|host| {
        let name = host.host().trim_matches(['[', ']']);
        let address = name.parse::<IpAddr>();
        name.eq_ignore_ascii_case("localhost") || address.is_ok_and(|ip| ip.is_loopback())
    })
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

fn needs_role(role: &str) -> Problem {
    Refusal::new(403, "not_allowed", format!("this needs the role {role}")).into()
}

fn not_allowed() -> Problem {
    let message = "this is not there, or not for the user of this token";
    Refusal::new(403, "not_allowed", message).into()
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn only_a_host_on_loopback_is_this_machine() {
        let of = |host: &str| {
            let host = host.parse().expect("a value");
            is_for_loopback(&HeaderMap::from_iter([(HOST, host)]))
        };
        for host in ["localhost", "LocalHost:8080", "127.0.0.1:80", "127.9.9.9", "[::1]:80"] {
            assert!(of(host), "{host}");
        }
        for host in ["shop.example", "localhost.evil.example", "10.0.0.1:80", "", "a b"] {
            assert!(!of(host), "{host}");
        }
        assert!(!is_for_loopback(&HeaderMap::new()));
        let mut forwarded = HeaderMap::from_iter([(HOST, HeaderValue::from_static("localhost"))]);
        assert!(is_for_loopback(&forwarded));
        forwarded.insert("x-forwarded-for", HeaderValue::from_static("192.0.2.7"));
        assert!(!is_for_loopback(&forwarded));
    }

    #[test]
    fn a_token_stands_behind_its_scheme() {
        assert_eq!(bearer("Bearer a.b"), Some("a.b"));
        assert_eq!(bearer("bearer  a.b "), Some("a.b"));
        for bad in ["a.b", "Bearer", "Basic a.b", ""] {
            assert_eq!(bearer(bad), None, "{bad}");
        }
    }
}
