//! Authentication, by the access token of a session, which is confirmed with SQL at each request,
//! and authorization by the [`policy`](super::policy).

mod requester;

use std::sync::Arc;

use axum::http::{HeaderMap, header::AUTHORIZATION};
use brigade_contracts::{
    Address, Aggregate, Refusal, Relation, Secret, Token, payment,
    user::{MANAGER, Validate, user_of},
};
use serde_json::Value;

pub(super) use self::requester::Requester;
use self::requester::{GATEWAY, STAFF};
use super::{
    admission::RequestPermit,
    cookies,
    extract::{bearer_token, is_for_loopback, single_header},
    policy::{RequiredRole, VerbPolicy, WITH_PASSWORD, not_allowed, view_role},
};
use crate::{
    runtime::http::Problem,
    workers::edge::query::{Queries, QueryReply, users::invalid_token},
};

/// Identifies the senders of requests, and decides what they may do.
pub(super) struct Authorizer {
    queries: Arc<Queries>,
    /// Requests on loopback without a token are trusted.
    is_open: bool,
}

impl Authorizer {
    /// Confirms tokens and owners with these queries.
    #[must_use]
    pub fn new(queries: Arc<Queries>, is_open: bool) -> Self {
        Self { queries, is_open }
    }

    /// Checks that a tenant is served.
    ///
    /// # Errors
    /// `404 unknown_tenant`, `403 tenant_suspended`.
    pub async fn admit_tenant(&self, tenant: &Token) -> Result<(), Problem> {
        Ok(self.queries.tenants.admit(tenant).await?)
    }

    /// Identifies the sender of a request to this tenant, which has to be served.
    ///
    /// # Errors
    /// Those of [`Authorizer::admit_tenant`]; 401 without the token of a session;
    /// `503 unconfirmed` while that is not certain.
    pub async fn identify(
        &self,
        tenant: &Token,
        headers: &HeaderMap,
    ) -> Result<Requester, Problem> {
        // Both at once: they are two statements. What is wrong with the tenant is said first.
        let (admitted, requester) =
            tokio::join!(self.admit_tenant(tenant), self.identify_user(tenant, headers));
        admitted.and(requester)
    }

    async fn identify_user(
        &self,
        tenant: &Token,
        headers: &HeaderMap,
    ) -> Result<Requester, Problem> {
        let Some(token) = shown_token(tenant, headers)? else {
            if headers.contains_key(AUTHORIZATION) {
                return Err(missing_token());
            }
            let is_trusted = self.is_open && is_for_loopback(headers);
            return if is_trusted { Ok(Requester::Trusted) } else { Err(missing_token()) };
        };
        let invalid = || Problem::from(invalid_token());
        let access_token = Secret::new(token.to_owned()).map_err(|_| invalid())?;
        let id = user_of(&access_token).ok_or_else(invalid)?;
        let user = Address { tenant: tenant.clone(), aggregate: Aggregate::User, id };
        let session = self.queries.users.validate(user, &Validate { access_token }).await?;
        Ok(Requester::User(session))
    }

    /// Returns what somebody has to be who asks for a token: a customer, unless HTTP is open.
    pub fn relation_of_stranger(&self, headers: &HeaderMap) -> Option<Relation> {
        let shows_none = !headers.contains_key(AUTHORIZATION);
        let is_trusted = self.is_open && shows_none && is_for_loopback(headers);
        (!is_trusted).then_some(Relation::Customer)
    }

    /// Identifies the sender of a request to this tenant, and counts the request for its user and
    /// the tenant from then on.
    ///
    /// # Errors
    /// The errors of [`Authorizer::identify`] and [`RequestPermit::confirm`].
    pub async fn admit(
        &self,
        permit: &RequestPermit,
        tenant: &Token,
        headers: &HeaderMap,
    ) -> Result<Requester, Problem> {
        let requester = self.identify(tenant, headers).await?;
        permit.confirm(requester.occupant(tenant))?;
        Ok(requester)
    }

    /// Identifies the sender of a request that changes something, as [`Authorizer::admit`] does.
    ///
    /// # Errors
    /// The errors of [`Authorizer::admit`]; `403 csrf_header_missing`.
    pub async fn admit_change(
        &self,
        permit: &RequestPermit,
        tenant: &Token,
        headers: &HeaderMap,
    ) -> Result<Requester, Problem> {
        cookies::require_csrf_header(tenant, headers)?;
        self.admit(permit, tenant, headers).await
    }

    /// Authorizes a requester to read the view of an aggregate, at once or as a stream.
    ///
    /// # Errors
    /// `403 not_allowed`, also if the aggregate does not exist; `503 unconfirmed`.
    pub async fn authorize_view(
        &self,
        requester: &Requester,
        address: &Address,
    ) -> Result<(), Problem> {
        // A manager looks after the users.
        if address.aggregate == Aggregate::User && requester.is_manager() {
            return Ok(());
        }
        self.authorize(requester, view_role(address.aggregate), address).await
    }

    /// Authorizes a requester to read lists, at once or as streams.
    ///
    /// # Errors
    /// `403 not_allowed`.
    pub fn authorize_list(&self, requester: &Requester) -> Result<(), Problem> {
        if requester.is_staff() { Ok(()) } else { Err(needs_role(STAFF)) }
    }

    /// Authorizes a requester to see what money a restaurant has, owes, and is not certain of.
    ///
    /// # Errors
    /// `403 not_allowed`.
    pub fn authorize_money(&self, requester: &Requester) -> Result<(), Problem> {
        if requester.is_manager() { Ok(()) } else { Err(needs_role(MANAGER)) }
    }

    /// Authorizes a requester to read what is a person's: the person, and staff.
    ///
    /// # Errors
    /// `403 not_allowed`.
    pub fn authorize_person(&self, requester: &Requester, person: &Token) -> Result<(), Problem> {
        let is_own = requester.user() == Some(person);
        if is_own || requester.is_staff() { Ok(()) } else { Err(not_allowed().into()) }
    }

    /// Authorizes a requester to send a command for which it takes a token. Returns what a customer
    /// has to be to the aggregate when it is decided.
    ///
    /// # Errors
    /// `403 not_allowed`, also if the aggregate does not exist; `503 unconfirmed`; 400 and 422 for
    /// a payload that does not name what a payment is for.
    pub async fn authorize_command(
        &self,
        requester: &Requester,
        policy: VerbPolicy,
        address: &Address,
        verb: &Token,
        payload: &[u8],
    ) -> Result<Option<Relation>, Problem> {
        // A payload that is no JSON names nobody, forces nothing, and is refused where it is
        // decided.
        let fields: Value = serde_json::from_slice(payload).unwrap_or_default();
        let policy = policy.for_payload(&fields);
        let customer = requester.user().filter(|_| !requester.is_staff());
        if let Some(user) = customer {
            policy.check_customer(user.as_str(), &fields)?;
        }
        let needs_password = WITH_PASSWORD.contains(&(address.aggregate, verb.as_str()));
        let is_own = requester.user() == Some(&address.id);
        if needs_password && is_own && fields["password"].is_null() {
            let message = "this needs the field password";
            return Err(Refusal::new(403, "password_required", message).into());
        }
        let target = match customer.and(Some((address.aggregate, verb.as_str()))) {
            Some((Aggregate::Payment, "initiate")) => payment_target(address, payload)?,
            _ => None,
        };
        self.authorize(requester, policy.role, target.as_ref().unwrap_or(address)).await?;
        let is_customer = customer.is_some() && !requester.is_trusted_for(policy.role);
        Ok(policy.role.relation().filter(|_| is_customer))
    }

    async fn authorize(
        &self,
        requester: &Requester,
        role: RequiredRole,
        address: &Address,
    ) -> Result<(), Problem> {
        let is_allowed = match (role, requester.user()) {
            (RequiredRole::Never, _) => false,
            (RequiredRole::Anybody, _) => true,
            // What it takes besides is found where the command is decided.
            (
                RequiredRole::Customer
                | RequiredRole::Invited
                | RequiredRole::Claimant
                | RequiredRole::Member,
                user,
            ) => user.is_some() || requester.is_staff(),
            (RequiredRole::Gateway, _) => requester.has_role(GATEWAY),
            (RequiredRole::Staff, _) => requester.is_staff(),
            (RequiredRole::Manager, _) => requester.is_manager(),
            (RequiredRole::Oneself, Some(user)) => *user == address.id,
            (RequiredRole::OneselfOrManager, Some(user)) => {
                *user == address.id || requester.is_manager()
            }
            (
                RequiredRole::Participant
                | RequiredRole::Payer
                | RequiredRole::PayerOrGateway
                | RequiredRole::Owner,
                Some(user),
            ) if !requester.is_trusted_for(role) => {
                let ownership = self.queries.owners.get(address.clone()).await;
                let ownership = ownership.map_err(QueryReply::from)?;
                match role {
                    RequiredRole::Owner => ownership.is_owner(user),
                    RequiredRole::Participant => ownership.is_participant(user),
                    _ => ownership.is_payer(user),
                }
            }
            (
                RequiredRole::Oneself
                | RequiredRole::OneselfOrManager
                | RequiredRole::Participant
                | RequiredRole::Payer
                | RequiredRole::PayerOrGateway
                | RequiredRole::Owner,
                _,
            ) => requester.is_trusted_for(role),
        };
        match role {
            _ if is_allowed => Ok(()),
            // That a role is missing reveals nothing about the aggregate.
            RequiredRole::Staff => Err(needs_role(STAFF)),
            RequiredRole::Manager => Err(needs_role(MANAGER)),
            RequiredRole::Gateway => Err(needs_role(GATEWAY)),
            _ => Err(not_allowed().into()),
        }
    }
}

/// Returns the access token that a request shows, in its header or else in a cookie.
///
/// # Errors
/// `400 bad_header`.
pub(super) fn shown_token<'a>(
    tenant: &Token,
    headers: &'a HeaderMap,
) -> Result<Option<&'a str>, Refusal> {
    Ok(match single_header(headers, AUTHORIZATION.as_str())? {
        Some(credentials) => bearer_token(credentials),
        None => cookies::access_token(tenant, headers),
    })
}

/// Returns the aggregate that a payment is for. The payload is decoded as where commands are
/// decided, so that both mean the same.
fn payment_target(payment: &Address, payload: &[u8]) -> Result<Option<Address>, Refusal> {
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

fn missing_token() -> Problem {
    let message = "this needs the header Authorization: Bearer <access token>";
    Refusal::new(401, "missing_token", message).into()
}

fn needs_role(role: &str) -> Problem {
    Refusal::new(403, "not_allowed", format!("this needs the role {role}")).into()
}
