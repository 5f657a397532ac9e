//! Places for what is in hand: so many for all, and for no tenant more than its share.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::reply::Reply;

/// A tenant may have one place in so many: its flood leaves room for others.
const SHARE: usize = 4;

/// Places, and who has how many of them.
#[derive(Clone)]
pub struct Places {
    all: Arc<Semaphore>,
    most: usize,
    taken: Arc<Taken>,
}

#[derive(Default)]
struct Taken(Mutex<HashMap<Box<str>, usize>>);

/// A place, until it is dropped.
pub struct Place {
    tenant: Box<str>,
    taken: Arc<Taken>,
    _permit: OwnedSemaphorePermit,
}

impl Places {
    #[must_use]
    pub fn new(all: usize) -> Self {
        let taken = Arc::default();
        Self { all: Arc::new(Semaphore::new(all)), most: all.div_ceil(SHARE), taken }
    }

    /// A place for a tenant. What is no tenant at all is one by its name as well.
    ///
    /// # Errors
    /// `503 busy` where there is no room for anybody, `429 too_many` where the tenant has its
    /// share.
    pub fn take(&self, tenant: &str) -> Result<Place, Reply> {
        let permit = self.all.clone().try_acquire_owned().map_err(|_| Reply::busy())?;
        let mut counts = self.taken.counts();
        match counts.get_mut(tenant) {
            Some(count) if *count >= self.most => return Err(Reply::too_many()),
            Some(count) => *count += 1,
            None => drop(counts.insert(tenant.into(), 1)),
        }
        drop(counts);
        Ok(Place { tenant: tenant.into(), taken: self.taken.clone(), _permit: permit })
    }

    /// Whether there is room for anybody.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.all.available_permits() > 0
    }

    /// Waits until so many are free.
    pub async fn free(&self, places: usize) {
        // Never closed; more than there are would never be free.
        let places = u32::try_from(places).unwrap_or(u32::MAX);
        let _all = self.all.acquire_many(places).await;
    }
}

impl Taken {
    fn counts(&self) -> MutexGuard<'_, HashMap<Box<str>, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.taken.counts();
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
        let places = Places::new(8);
        let status = |taken: &Result<Place, Reply>| taken.as_ref().err().map(|reply| reply.status);
        let mut flood: Vec<_> = (0..3).map(|_| places.take("t1")).collect();
        assert_eq!(flood.iter().map(status).collect::<Vec<_>>(), [None, None, Some(429)]);
        let others: Vec<_> = ["t2", "t3", "t4"].map(|t| [places.take(t), places.take(t)]).into();
        assert!(others.iter().flatten().all(|taken| taken.is_ok()));
        assert!(!places.has_room());
        assert_eq!(status(&places.take("t5")), Some(503), "no room for anybody");
        // What is given back is had again, and who has nothing is not remembered.
        drop(flood.remove(0));
        assert!(places.take("t1").is_ok());
        drop((flood, others));
        assert!(places.taken.counts().is_empty());
    }
}
