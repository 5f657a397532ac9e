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

/// The most requests over HTTP in flight of one user; more are refused as `too_many`.
const MAX_OF_USER: usize = 64;
/// The same of one who is staff: the devices of a restaurant may share a user.
const MAX_OF_STAFF: usize = 512;
/// Users who are not staff have so many of so many parts of all permits, and of a tenant's share.
const OF_GUESTS: (usize, usize) = (3, 4);

/// Hands out permits: so many in total, and to no tenant more than its share.
#[derive(Clone)]
pub struct AdmissionControl {
    permits: Arc<Semaphore>,
    total: usize,
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
    /// The requests over HTTP among these.
    pub users: UserAdmission,
    /// Requests over HTTP whose token is not confirmed yet, by address.
    pub strangers: AdmissionControl,
}

impl Default for RequestAdmission {
    fn default() -> Self {
        let tenants = AdmissionControl::new(MAX_IN_FLIGHT);
        let users = UserAdmission::within(&tenants, MAX_OF_USER, MAX_OF_STAFF);
        Self { tenants, users, strangers: AdmissionControl::new(MAX_STRANGERS) }
    }
}

/// Bounds what is in flight of each user, and leaves a part to staff.
#[derive(Clone)]
pub struct UserAdmission {
    tenants: AdmissionControl,
    /// The count of all users who are not staff, by tenant.
    guests: AdmissionControl,
    /// The count of each user who is not staff.
    guest: AdmissionControl,
    /// The count of each user who is staff.
    staff: AdmissionControl,
}

/// The user whom something in flight belongs to.
#[derive(Clone, Copy, Debug)]
pub struct Occupant<'a> {
    pub tenant: &'a str,
    /// `None` where nobody shows a token, and everybody is trusted.
    pub user: Option<&'a str>,
    pub is_staff: bool,
}

/// Permission for one thing in flight of a user, or of a stranger.
pub struct UserPermit {
    _held: Vec<AdmissionPermit>,
}

impl From<AdmissionPermit> for UserPermit {
    fn from(permit: AdmissionPermit) -> Self {
        Self { _held: vec![permit] }
    }
}

impl UserAdmission {
    /// Creates an admission within that of tenants, with so many permits for each user, and for
    /// each one who is staff.
    #[must_use]
    pub fn within(tenants: &AdmissionControl, of_user: usize, of_staff: usize) -> Self {
        let (total, (part, of)) = (tenants.total, OF_GUESTS);
        let share = |most: usize| (most * part / of).max(1);
        Self {
            tenants: tenants.clone(),
            guests: AdmissionControl::with_most(share(total), share(tenants.max_per_tenant)),
            guest: AdmissionControl::with_most(total, of_user),
            staff: AdmissionControl::with_most(total, of_staff),
        }
    }

    /// Takes a permit for a user.
    ///
    /// # Errors
    /// If all permits are taken, or the tenant or the user holds its share.
    pub fn try_admit(&self, by: Occupant<'_>) -> Result<UserPermit, AdmissionError> {
        let Occupant { tenant, user, is_staff } = by;
        let of_user = if is_staff { &self.staff } else { &self.guest };
        let mut permits = Vec::with_capacity(3);
        if let Some(user) = user {
            permits.push(of_user.try_admit(&format!("{tenant}.{user}"))?);
        }
        if !is_staff {
            permits.push(self.guests.try_admit(tenant)?);
        }
        permits.push(self.tenants.try_admit(tenant)?);
        Ok(UserPermit { _held: permits })
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
        Self::with_most(permits, permits.div_ceil(SHARE))
    }

    /// Creates an admission control with `total` permits, at most `most` of them for each name.
    fn with_most(total: usize, most: usize) -> Self {
        Self {
            permits: Arc::new(Semaphore::new(total)),
            total,
            max_per_tenant: most,
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
    fn s7_11_guests_leave_a_part_to_staff_and_each_has_his_own() {
        let tenants = AdmissionControl::new(32);
        let users = UserAdmission::within(&tenants, 2, 4);
        let admit = |user: &str, is_staff| {
            let by = Occupant { tenant: "t1", user: Some(user), is_staff };
            users.try_admit(by)
        };
        let refused = Some(AdmissionError::ShareExceeded);
        let mut held = Vec::new();
        for guest in ["ada", "bob", "cyd"] {
            held.extend([admit(guest, false), admit(guest, false)]);
            assert_eq!(admit(guest, false).err(), refused, "{guest} has two");
        }
        assert!(held.iter().all(Result::is_ok));
        assert_eq!(admit("dan", false).err(), refused, "the rest of the share is staff's");
        held.extend([admit("sam", true), admit("sam", true)]);
        assert!(held.iter().all(Result::is_ok));
        assert_eq!(admit("sue", true).err(), refused, "the tenant has its share");
        drop(held);
        assert!(
            users.guest.in_flight.counts().is_empty() && users.staff.in_flight.counts().is_empty()
        );
    }

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
