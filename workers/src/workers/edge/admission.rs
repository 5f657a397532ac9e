//! Admission control: bounds what is in flight, in total and for each tenant.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// A tenant may hold one of so many permits, so its flood leaves room for others.
const SHARE: usize = 4;

/// The most queries and requests in flight, a quarter of them of one tenant; more are refused as
/// `busy` or `too_many`.
const MAX_IN_FLIGHT: usize = 10_000;
/// The most requests over HTTP whose token is not confirmed yet, a quarter of them from one
/// address. A token is confirmed within milliseconds; only a login takes longer.
const MAX_STRANGERS: usize = 2_048;

/// Hands out permits: so many in total, and to no tenant more than its share.
#[derive(Clone)]
pub struct AdmissionControl {
    permits: Arc<Semaphore>,
    max_per_tenant: usize,
    in_flight: Arc<InFlight>,
}

/// The permits that each tenant holds. Tenants that hold none are absent.
#[derive(Default)]
struct InFlight(Mutex<HashMap<Box<str>, usize>>);

/// Permission for one thing in flight, given back when it is dropped.
pub struct AdmissionPermit {
    tenant: Box<str>,
    in_flight: Arc<InFlight>,
    _permit: OwnedSemaphorePermit,
}

/// The bounds on queries over NATS and requests over HTTP.
#[derive(Clone)]
pub struct RequestAdmission {
    /// Queries, and requests whose tenant is known.
    pub tenants: AdmissionControl,
    /// Requests over HTTP whose token is not confirmed yet, by address.
    pub strangers: AdmissionControl,
}

impl Default for RequestAdmission {
    fn default() -> Self {
        Self {
            tenants: AdmissionControl::new(MAX_IN_FLIGHT),
            strangers: AdmissionControl::new(MAX_STRANGERS),
        }
    }
}

impl RequestAdmission {
    /// Waits until nothing is in flight.
    pub async fn wait_until_idle(&self) {
        // In this order: a stranger may become a tenant's request.
        self.strangers.wait_until_free(MAX_STRANGERS).await;
        self.tenants.wait_until_free(MAX_IN_FLIGHT).await;
    }
}

/// The reason why nothing more is admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdmissionError {
    /// All permits are taken.
    Full,
    /// The tenant holds its share of the permits.
    ShareExceeded,
}

impl AdmissionControl {
    /// Creates an admission control with `permits` permits, a quarter of them for each tenant.
    #[must_use]
    pub fn new(permits: usize) -> Self {
        Self {
            permits: Arc::new(Semaphore::new(permits)),
            max_per_tenant: permits.div_ceil(SHARE),
            in_flight: Arc::default(),
        }
    }

    /// Takes a permit for a tenant. Any text counts as the name of one.
    ///
    /// # Errors
    /// If all permits are taken, or the tenant holds its share.
    pub fn try_admit(&self, tenant: &str) -> Result<AdmissionPermit, AdmissionError> {
        let permit = self.permits.clone().try_acquire_owned().map_err(|_| AdmissionError::Full)?;
        let mut counts = self.in_flight.counts();
        match counts.get_mut(tenant) {
            Some(count) if *count >= self.max_per_tenant => {
                return Err(AdmissionError::ShareExceeded);
            }
            Some(count) => *count += 1,
            None => drop(counts.insert(tenant.into(), 1)),
        }
        drop(counts);
        let in_flight = self.in_flight.clone();
        Ok(AdmissionPermit { tenant: tenant.into(), in_flight, _permit: permit })
    }

    /// Returns true if a permit is free.
    #[must_use]
    pub fn has_capacity(&self) -> bool {
        self.permits.available_permits() > 0
    }

    /// Waits until `permits` permits are free at once.
    pub async fn wait_until_free(&self, permits: usize) {
        // Never closed; more than there are would never be free.
        let permits = u32::try_from(permits).unwrap_or(u32::MAX);
        let _all = self.permits.acquire_many(permits).await;
    }
}

impl InFlight {
    fn counts(&self) -> MutexGuard<'_, HashMap<Box<str>, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for AdmissionPermit {
    fn drop(&mut self) {
        let mut counts = self.in_flight.counts();
        if let Some(count) = counts.get_mut(&self.tenant) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.tenant);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenant_has_its_share_and_leaves_the_rest_to_others() {
        let control = AdmissionControl::new(8);
        let admit = |tenant: &str| control.try_admit(tenant);
        let mut flood: Vec<_> = (0..2).map(|_| admit("t1")).collect();
        assert!(flood.iter().all(Result::is_ok));
        assert_eq!(admit("t1").err(), Some(AdmissionError::ShareExceeded));
        let others: Vec<_> = ["t2", "t3", "t4"].map(|t| [admit(t), admit(t)]).into();
        assert!(others.iter().flatten().all(Result::is_ok));
        assert!(!control.has_capacity());
        assert_eq!(admit("t5").err(), Some(AdmissionError::Full), "no permit for anybody");
        // What is given back is had again, and who has nothing is not remembered.
        drop(flood.remove(0));
        assert!(admit("t1").is_ok());
        drop((flood, others));
        assert!(control.in_flight.counts().is_empty());
    }
}
