//! Token buckets: how many requests of one address, one user and one tenant are served in a time.
//! Guests have three quarters of what a tenant has, so that they never leave staff and payment
//! gateways without. Whoever reads the menu without a token has as much in a bucket of his own, so
//! that he leaves nobody without whose token is known.
//!
//! A response tells how much is left, in the fields of draft-ietf-httpapi-ratelimit-headers-09:
//! `RateLimit-Policy: "user";q=200;w=4` (so many requests, within so many seconds) and
//! `RateLimit: "user";r=199;t=1` (so many are left; all of them again after so many seconds).

use std::{fmt::Write, sync::Arc, time::Duration};

use brigade_contracts::Refusal;
use governor::{
    NotUntil, Quota, RateLimiter,
    clock::{Clock, DefaultClock},
    middleware::StateInformationMiddleware,
    nanos::Nanos,
    state::{InMemoryState, NotKeyed, StateStore},
};
use moka::sync::Cache;

use crate::runtime::http::{Rate, RateLimits};

/// The most buckets of a kind, some 200 bytes each. Those that were not used for the longest time are
/// forgotten, and full when they are met again.
const MAX_BUCKETS: u64 = 50_000;

/// A bucket by which requests are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RatePolicy {
    /// Requests from an address that show no token.
    Address,
    /// Requests from an address whose token is not known.
    Token,
    Login,
    User,
    /// Requests to a tenant that show no token and need none.
    Strangers,
    /// All requests to a tenant but those of its staff and its gateways.
    Guests,
    Tenant,
}

impl RatePolicy {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Address => "address",
            Self::Token => "token",
            Self::Login => "login",
            Self::User => "user",
            Self::Strangers => "strangers",
            Self::Guests => "guests",
            Self::Tenant => "tenant",
        }
    }
}

/// The buckets of all kinds.
pub(super) struct RateBuckets([Option<Buckets>; 7]);

/// The buckets of one kind, by name.
struct Buckets {
    rate: Rate,
    store: BoundedStore,
    limiter: RateLimiter<String, BoundedStore, DefaultClock, StateInformationMiddleware>,
}

/// The rest of a bucket after a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RateState {
    policy: RatePolicy,
    rate: Rate,
    remaining: u32,
    /// Until the bucket is full again, or, if it is empty, until it holds one request.
    wait: Duration,
}

impl RateBuckets {
    /// Creates full buckets.
    #[must_use]
    pub fn new(limits: RateLimits) -> Self {
        let guests = limits.tenant.map(Rate::of_guests);
        let RateLimits { address, login, user, tenant } = limits;
        let rates = [address, address, login, user, guests, guests, tenant];
        Self(rates.map(|rate| rate.map(Buckets::new)))
    }

    /// Takes a request out of a bucket. Returns what is left; `None` if there is no limit.
    pub fn take(&self, policy: RatePolicy, name: &str) -> Option<Result<RateState, RateState>> {
        let buckets = self.0[policy as usize].as_ref()?;
        Some(buckets.take(policy, name))
    }

    /// Puts a request back into a bucket that it was taken out of.
    pub fn give_back(&self, policy: RatePolicy, name: &str) {
        if let Some(buckets) = &self.0[policy as usize] {
            buckets.give_back(name);
        }
    }
}

impl Buckets {
    fn new(rate: Rate) -> Self {
        let quota = Quota::per_second(rate.per_second).allow_burst(rate.burst);
        // One that was not used for so long is full, so it need not be remembered.
        let full = Duration::from_secs(rate.window().into());
        let store = BoundedStore::new(full);
        let limiter = RateLimiter::new(quota, store.clone(), DefaultClock::default());
        Self { rate, store, limiter }
    }

    fn take(&self, policy: RatePolicy, name: &str) -> Result<RateState, RateState> {
        let state = |remaining, wait| RateState { policy, rate: self.rate, remaining, wait };
        match self.limiter.check_key(&name.to_owned()) {
            Ok(snapshot) => {
                let remaining = snapshot.remaining_burst_capacity();
                let missing = self.rate.burst.get().saturating_sub(remaining);
                let wait = f64::from(missing) / f64::from(self.rate.per_second.get());
                Ok(state(remaining, Duration::from_secs_f64(wait)))
            }
            Err(not_until) => Err(state(0, wait(&not_until))),
        }
    }

    /// The limiter keeps the time at which a bucket is full again, which is by one request earlier.
    fn give_back(&self, name: &str) {
        let one = Nanos::from(Duration::from_secs(1) / self.rate.per_second.get());
        let earlier =
            |full: Option<Nanos>| full.map(|full| ((), full.saturating_sub(one))).ok_or(());
        let _known = self.store.measure_and_replace(&name.to_owned(), earlier);
    }
}

fn wait(not_until: &NotUntil<<DefaultClock as Clock>::Instant>) -> Duration {
    not_until.wait_time_from(DefaultClock::default().now())
}

/// Keeps a bounded number of buckets.
#[derive(Clone)]
struct BoundedStore(Cache<String, Arc<InMemoryState>>);

impl BoundedStore {
    fn new(forgotten_after: Duration) -> Self {
        let cache = Cache::builder().max_capacity(MAX_BUCKETS).time_to_idle(forgotten_after);
        Self(cache.build())
    }
}

impl StateStore for BoundedStore {
    type Key = String;

    fn measure_and_replace<T, F, E>(&self, key: &String, measure: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let bucket = self.0.get_with_by_ref(key, Arc::default);
        bucket.measure_and_replace(&NotKeyed::NonKey, measure)
    }
}

impl RateState {
    pub fn policy(self) -> RatePolicy {
        self.policy
    }

    /// Returns `429`, for an empty bucket.
    #[must_use]
    pub fn refusal(self) -> Refusal {
        let of = match self.policy {
            RatePolicy::Address | RatePolicy::Token => "requests from this address",
            RatePolicy::Login => "logins or the like from here",
            RatePolicy::User => "requests of this user",
            RatePolicy::Strangers => "requests to this tenant without a token",
            RatePolicy::Guests => "requests of this tenant's guests",
            RatePolicy::Tenant => "requests to this tenant",
        };
        let message = format!("too many {of}; RateLimit-Policy tells how many");
        let refusal = Refusal::new(429, "rate_limited", message);
        let wait = u64::try_from(self.wait.as_millis()).unwrap_or(u64::MAX);
        Refusal { retry_after_ms: Some(wait.max(1)), ..refusal }
    }

    /// Returns the fields `RateLimit-Policy` and `RateLimit`.
    #[must_use]
    pub fn fields(states: &[Self]) -> [String; 2] {
        let (mut policies, mut left) = (String::new(), String::new());
        for (place, state) in states.iter().enumerate() {
            let comma = if place == 0 { "" } else { ", " };
            let Self { policy, rate, remaining, wait } = state;
            let (policy, burst, window) = (policy.as_str(), rate.burst, rate.window());
            let seconds = wait.as_millis().div_ceil(1000);
            let _written = write!(policies, "{comma}\"{policy}\";q={burst};w={window}");
            let _written = write!(left, "{comma}\"{policy}\";r={remaining};t={seconds}");
        }
        [policies, left]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn buckets() -> RateBuckets {
        // Nothing that a test waits for comes back in time.
        RateBuckets::new(RateLimits { user: Rate::new(1, 3), ..RateLimits::default() })
    }

    #[test]
    fn a_bucket_holds_its_burst_and_each_name_has_its_own() {
        let buckets = buckets();
        let take = |name: &str| buckets.take(RatePolicy::User, name).expect("a limit");
        let left: Vec<_> = (0..3).map(|_| take("ada").map(|state| state.remaining)).collect();
        assert_eq!(left, [Ok(2), Ok(1), Ok(0)]);
        let empty = take("ada").expect_err("it is empty");
        let refusal = empty.refusal();
        assert_eq!((refusal.status, &*refusal.code), (429, "rate_limited"));
        let message = "too many requests of this user; RateLimit-Policy tells how many";
        assert_eq!(refusal.message, message);
        let guests = RateState { policy: RatePolicy::Guests, ..empty }.refusal();
        assert!(guests.message.starts_with("too many requests of this tenant's guests;"));
        assert!((1..=1000).contains(&refusal.retry_after_ms.expect("a time")), "{refusal:?}");
        assert!(take("bob").is_ok());
        for name in ["ada", "bob", "eve"] {
            buckets.give_back(RatePolicy::User, name);
        }
        assert_eq!([(); 2].map(|()| take("ada").is_ok()), [true, false], "one was given back");
        let left = take("eve").map(|state| state.remaining);
        assert_eq!(left, Ok(2), "it was full");
        assert!(buckets.take(RatePolicy::Tenant, "t1").is_none(), "no limit");
    }

    #[test]
    fn the_fields_tell_the_quota_and_what_is_left() {
        let buckets = RateBuckets::new(RateLimits {
            user: Rate::new(50, 200),
            tenant: Rate::new(1, 3),
            ..RateLimits::default()
        });
        let take = |policy| buckets.take(policy, "a").expect("a limit").expect("full");
        let states = [take(RatePolicy::User), take(RatePolicy::Tenant)];
        let [policies, left] = RateState::fields(&states);
        assert_eq!(policies, "\"user\";q=200;w=4, \"tenant\";q=3;w=3");
        assert_eq!(left, "\"user\";r=199;t=1, \"tenant\";r=2;t=1");
    }

    #[test]
    fn memory_is_bounded_however_many_names_come() {
        let store = BoundedStore::new(Duration::from_secs(3600));
        for n in 0..2 * MAX_BUCKETS {
            let full = store.measure_and_replace(&n.to_string(), |before| {
                Ok::<_, ()>((before.is_none(), Nanos::from(1_u64)))
            });
            assert_eq!(full, Ok(true), "{n}");
        }
        store.0.run_pending_tasks();
        assert!(store.0.entry_count() <= MAX_BUCKETS, "{}", store.0.entry_count());
    }
}
