//! The admission of a request: it counts for its address until its token is confirmed, and then
//! for its user and tenant. So nobody uses up the share of a tenant whose token he does not have.

use std::{
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use sha2::{Digest as _, Sha256};

use super::rates::{RateBuckets, RatePolicy, RateState};
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
    pub metrics: Arc<EdgeMetrics>,
}

/// The permit of a request, given back with the last clone.
#[derive(Clone)]
pub(super) struct RequestPermit {
    state: Arc<Mutex<PermitState>>,
    admission: HttpAdmission,
    /// The network of the client; `None` for the machine itself, which is not limited.
    network: Option<Arc<str>>,
}

struct PermitState {
    _held: UserPermit,
    /// The tokens left in the buckets that the request was taken out of.
    rates: Vec<RateState>,
}

impl RequestPermit {
    /// Admits a request of which nothing is known but the address.
    ///
    /// # Errors
    /// If too many such requests are in flight, in total or from this address.
    pub fn for_stranger(admission: &HttpAdmission, from: IpAddr) -> Result<Self, AdmissionError> {
        let network = network_of(from);
        let _held = admission.in_flight.strangers.try_admit(&network)?.into();
        Ok(Self {
            state: Arc::new(Mutex::new(PermitState { _held, rates: Vec::new() })),
            admission: admission.clone(),
            network: (!from.is_loopback()).then(|| network.into()),
        })
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

    /// Counts the request for its user and tenant instead: those who share an address share nothing
    /// once they are known.
    ///
    /// # Errors
    /// `429 rate_limited` of the user or the tenant; `429 too_many` and `503 busy` if too many
    /// requests are in flight, in total, of the tenant or of the user.
    pub fn confirm(&self, by: Occupant<'_>) -> Result<(), Problem> {
        if let Some(user) = by.user {
            self.take(RatePolicy::User, &format!("{}.{user}", by.tenant))?;
        }
        if !by.is_staff {
            self.take(RatePolicy::Guests, by.tenant)?;
        }
        self.take(RatePolicy::Tenant, by.tenant)?;
        let permit = self.admission.in_flight.users.try_admit(by)?;
        let mut state = self.state();
        state._held = permit;
        let of_address = |state: &RateState| state.policy() == RatePolicy::Address;
        let taken = state.rates.iter().position(of_address).map(|at| state.rates.remove(at));
        if let (Some(_), Some(network)) = (taken, &self.network) {
            self.admission.rates.give_back(RatePolicy::Address, network);
        }
        Ok(())
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
mod tests {
    use super::*;
    use crate::{
        infra::Metrics,
        runtime::http::{Rate, RateLimits},
        workers::edge::admission::{AdmissionControl, UserAdmission},
    };

    fn admission(tenants: usize, strangers: usize, rates: RateLimits) -> HttpAdmission {
        let tenants = AdmissionControl::new(tenants);
        HttpAdmission {
            in_flight: RequestAdmission {
                users: UserAdmission::within(&tenants, 64, 64),
                strangers: AdmissionControl::new(strangers),
                tenants,
            },
            rates: Arc::new(RateBuckets::new(rates)),
            metrics: Metrics::new().group(),
        }
    }

    fn staff(tenant: &str) -> Occupant<'_> {
        Occupant { tenant, user: Some("ada"), is_staff: true }
    }

    #[test]
    fn s5_08_a_stranger_takes_nothing_of_a_tenants_share() {
        let admission = admission(4, 8, RateLimits::default());
        let from = |address: &str| {
            RequestPermit::for_stranger(&admission, address.parse().expect("an address"))
        };
        let flood: Vec<_> = (0..3).map(|_| from("192.0.2.1")).collect();
        let refused: Vec<_> = flood.iter().map(|admitted| admitted.as_ref().err()).collect();
        assert_eq!(refused, [None, None, Some(&AdmissionError::ShareExceeded)]);
        let known = from("192.0.2.2").expect("room");
        assert!(known.confirm(staff("t1")).is_ok());
        // The stranger's permit is free again, the tenant's is taken.
        let others = [from("192.0.2.2"), from("192.0.2.2")];
        assert!(others.iter().all(Result::is_ok));
        let second = others[0].as_ref().map(|other| other.confirm(staff("t1")));
        let why = second.ok().and_then(Result::err).expect("it is refused");
        assert_eq!(why.code(), "too_many");
        drop(known);
        assert!(others[1].as_ref().is_ok_and(|other| other.confirm(staff("t1")).is_ok()));
    }

    #[test]
    fn an_address_a_user_and_a_tenant_have_a_bucket_each_and_the_machine_itself_has_none() {
        let rates = RateLimits {
            address: Rate::new(1, 4),
            login: Rate::new(1, 1),
            user: Rate::new(1, 1),
            tenant: Rate::new(1, 3),
        };
        let admission = admission(100, 100, rates);
        let from = |address: &str| {
            RequestPermit::for_stranger(&admission, address.parse().expect("an address"))
                .expect("room")
        };
        let ok = |taken: Result<(), Problem>| taken.is_ok();
        let one = from("192.0.2.1");
        let logins = [(); 2].map(|()| ok(one.take_of_address(RatePolicy::Login)));
        assert_eq!(logins, [true, false]);
        let all = [(); 5].map(|()| ok(from("192.0.2.1").take_of_address(RatePolicy::Address)));
        assert_eq!(all, [true, true, true, true, false]);
        assert!(ok(from("192.0.2.2").take_of_address(RatePolicy::Address)));
        for _ in 0..9 {
            assert!(ok(from("127.0.0.1").take_of_address(RatePolicy::Address)));
        }
        let by =
            |user, is_staff| ok(one.confirm(Occupant { tenant: "t1", user: Some(user), is_staff }));
        let guests = ["ada", "ada", "bob", "cyd"].map(|user| by(user, false));
        assert_eq!(guests, [true, false, true, false]);
        let staff = ["eve", "fay"].map(|user| by(user, true));
        assert_eq!(staff, [true, false], "what guests cannot use");
        let mut headers = HeaderMap::new();
        one.add_rate_fields(&mut headers);
        let told = headers[RATELIMIT].to_str().expect("text");
        assert!(
            told.starts_with("\"login\";r=0;t=1, ")
                && told.contains("\"guests\";r=1;t=1, \"tenant\";r=2;t=1"),
            "{told}"
        );
        let limited = &admission.metrics.http_rate_limited;
        let count = |policy| limited.with_label_values(&[policy]).get();
        assert_eq!(["address", "login", "user", "guests", "tenant"].map(count), [1, 1, 1, 1, 1]);
    }

    #[test]
    fn who_is_known_takes_nothing_of_those_who_share_an_address() {
        let rates = RateLimits { address: Rate::new(1, 2), ..RateLimits::default() };
        let admission = admission(100, 100, rates);
        let address = "192.0.2.1".parse().expect("an address");
        let taken = || {
            let permit = RequestPermit::for_stranger(&admission, address).expect("room");
            permit.take_of_address(RatePolicy::Address).is_ok().then_some(permit)
        };
        for _ in 0..9 {
            let permit = taken().expect("what was taken is given back");
            permit.confirm(staff("t1")).expect("room");
            permit.confirm(staff("t1")).expect("once");
        }
        assert_eq!([(); 3].map(|()| taken().is_some()), [true, true, false]);
    }

    #[test]
    fn a_refresh_is_counted_by_its_token_and_not_by_its_address() {
        let rates = RateLimits { login: Rate::new(1, 1), ..RateLimits::default() };
        let admission = admission(100, 100, rates);
        let address = "192.0.2.1".parse().expect("an address");
        let one = RequestPermit::for_stranger(&admission, address).expect("room");
        let logins = [(); 2].map(|()| one.take_of_address(RatePolicy::Login).is_ok());
        assert_eq!(logins, [true, false]);
        let refreshes =
            ["ada.a", "bob.b", "ada.a"].map(|token| one.take_of_refresh(token.as_bytes()).is_ok());
        assert_eq!(refreshes, [true, true, false]);
    }
}
