//! The admission of a request: it counts for its address until its token is confirmed, and then
//! for its user and tenant. So nobody uses up the share of a tenant whose token he does not have.
//!
//! Whoever shares an address with strangers is not refused for what they do: a token that is known
//! here counts for its user from the start, and other requests with a token in a bucket that those
//! without one leave alone. What is not confirmed stays in that bucket, so wrong tokens are bounded.

use std::{
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use axum::{
    extract::Request,
    http::{HeaderMap, HeaderName, HeaderValue},
};
use brigade_contracts::{Secret, Token};
use sha2::{Digest as _, Sha256};

use super::{
    known_tokens::{KnownTokens, ShownToken},
    rates::{RateBuckets, RatePolicy, RateState},
};
use crate::{
    runtime::http::{Problem, network_of},
    workers::edge::{
        admission::{AdmissionError, Occupant, RequestAdmission, UserPermit},
        metrics::EdgeMetrics,
    },
};

const RATELIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const RATELIMIT: HeaderName = HeaderName::from_static("ratelimit");

/// Admits requests over HTTP.
#[derive(Clone)]
pub(super) struct HttpAdmission {
    pub in_flight: RequestAdmission,
    pub rates: Arc<RateBuckets>,
    pub known: Arc<KnownTokens>,
    pub metrics: Arc<EdgeMetrics>,
}

/// The sender of a request, as far as the request says.
#[derive(Clone, Debug)]
pub(super) enum ClaimedIdentity {
    /// Nobody.
    Stranger,
    /// The user of an access token.
    User(ShownToken),
    /// The user of a refresh token, which has not been looked at.
    Refreshing,
}

impl ClaimedIdentity {
    /// Returns what a request says.
    pub fn of(request: &Request) -> Self {
        let path = request.uri().path();
        match ShownToken::of(path, request.headers()) {
            Some(token) => Self::User(token),
            None if path.ends_with("/refresh") => Self::Refreshing,
            None => Self::Stranger,
        }
    }

    fn token(&self) -> Option<&ShownToken> {
        if let Self::User(token) = self { Some(token) } else { None }
    }
}

/// The permit of a request, given back with the last clone.
#[derive(Clone)]
pub(super) struct RequestPermit {
    state: Arc<Mutex<PermitState>>,
    admission: HttpAdmission,
    /// The network of the client; `None` for the machine itself, which is not limited.
    network: Option<Arc<str>>,
    claimed: Arc<ClaimedIdentity>,
    /// Its token is known here.
    is_recognised: bool,
}

struct PermitState {
    _held: UserPermit,
    /// The tokens left in the buckets that the request was taken out of.
    rates: Vec<RateState>,
}

impl RequestPermit {
    /// Admits a request of which nothing is confirmed. It counts for the user of its token if that
    /// is known here, else for its address.
    ///
    /// # Errors
    /// If too many such requests are in flight, in total, of this user or from this address.
    pub fn unconfirmed(
        admission: &HttpAdmission,
        from: IpAddr,
        claimed: ClaimedIdentity,
    ) -> Result<Self, AdmissionError> {
        let network = network_of(from);
        let known = claimed.token().filter(|token| admission.known.has(token));
        let name = known.map_or(&network, |token| &token.user);
        let _held = admission.in_flight.strangers.try_admit(name)?.into();
        Ok(Self {
            state: Arc::new(Mutex::new(PermitState { _held, rates: Vec::new() })),
            admission: admission.clone(),
            network: (!from.is_loopback()).then(|| network.into()),
            is_recognised: known.is_some(),
            claimed: Arc::new(claimed),
        })
    }

    /// Takes the request out of the first bucket: that of the user whose token is known here, else
    /// that of its address for requests that show a token, or for those that show none.
    ///
    /// # Errors
    /// `429 rate_limited`.
    pub fn take_first(&self) -> Result<(), Problem> {
        match &*self.claimed {
            ClaimedIdentity::User(token) if self.is_recognised => {
                self.take(RatePolicy::User, &token.user)
            }
            ClaimedIdentity::Stranger => self.take_of_address(RatePolicy::Address),
            _ => self.take_of_address(RatePolicy::Token),
        }
    }

    /// Takes the request out of the bucket of its address, or that of logins from there.
    ///
    /// # Errors
    /// `429 rate_limited`.
    pub fn take_of_address(&self, policy: RatePolicy) -> Result<(), Problem> {
        self.network.as_ref().map_or(Ok(()), |network| self.take(policy, network))
    }

    /// Takes a refresh out of the bucket of its own token: those who share an address do not end
    /// each other's sessions, and nobody else has the token.
    ///
    /// # Errors
    /// `429 rate_limited`.
    pub fn take_of_refresh(&self, token: &[u8]) -> Result<(), Problem> {
        if self.network.is_none() {
            return Ok(());
        }
        self.take(RatePolicy::Login, &format!("{:x}", Sha256::digest(token)))
    }

    /// Takes a request that needs no token out of a bucket of its tenant: with a token that is known
    /// here that of guests, else that of strangers, who use up nobody else's.
    ///
    /// # Errors
    /// `429 rate_limited`.
    pub fn take_of_menu(&self, tenant: &Token) -> Result<(), Problem> {
        let who = if self.is_recognised { RatePolicy::Guests } else { RatePolicy::Strangers };
        self.take(who, tenant.as_str())
    }

    /// Counts the request for its user and tenant instead: those who share an address share nothing
    /// once they are known.
    ///
    /// # Errors
    /// `429 rate_limited` of the user or the tenant; `429 too_many` and `503 busy` if too many
    /// requests are in flight, in total, of the tenant or of the user.
    pub fn confirm(&self, by: Occupant<'_>) -> Result<(), Problem> {
        if let Some(user) = by.user {
            self.claimed.token().iter().for_each(|token| self.admission.known.remember(token));
            if !self.is_recognised {
                self.take(RatePolicy::User, &format!("{}.{user}", by.tenant))?;
            }
        }
        if !by.is_staff {
            self.take(RatePolicy::Guests, by.tenant)?;
        }
        self.take(RatePolicy::Tenant, by.tenant)?;
        let permit = self.admission.in_flight.users.try_admit(by)?;
        self.state()._held = permit;
        self.give_back();
        Ok(())
    }

    /// Counts the request no more for its address, and knows the access token that it was given.
    pub fn issued(&self, tenant: &Token, access_token: &Secret) {
        let token = ShownToken::new(tenant, access_token);
        token.iter().for_each(|token| self.admission.known.remember(token));
        self.give_back();
    }

    /// Forgets the token of a request that was refused for it.
    pub fn forget(&self) {
        self.claimed.token().iter().for_each(|token| self.admission.known.forget(token));
    }

    /// Gives the request back to the bucket of its address.
    fn give_back(&self) {
        let Some(network) = &self.network else { return };
        let of_address = [RatePolicy::Address, RatePolicy::Token];
        let given_back = |state: &mut RateState| of_address.contains(&state.policy());
        let taken: Vec<_> = self.state().rates.extract_if(.., given_back).collect();
        for state in taken {
            self.admission.rates.give_back(state.policy(), network);
        }
    }

    fn take(&self, policy: RatePolicy, name: &str) -> Result<(), Problem> {
        let Some(taken) = self.admission.rates.take(policy, name) else { return Ok(()) };
        let (Ok(state) | Err(state)) = taken;
        self.state().rates.push(state);
        if taken.is_err() {
            let limited = &self.admission.metrics.http_rate_limited;
            limited.with_label_values(&[policy.as_str()]).inc();
            return Err(state.refusal().into());
        }
        Ok(())
    }

    /// Tells what is left in the buckets.
    pub fn add_rate_fields(&self, headers: &mut HeaderMap) {
        let state = self.state();
        if state.rates.is_empty() {
            return;
        }
        let fields = RateState::fields(&state.rates);
        for (name, field) in [RATELIMIT_POLICY, RATELIMIT].into_iter().zip(fields) {
            if let Ok(value) = HeaderValue::try_from(field) {
                headers.insert(name, value);
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, PermitState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
