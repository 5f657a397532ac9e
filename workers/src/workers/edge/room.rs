//! Room for large answers, from before they are made until they have left: so many for all, and
//! for no tenant more than its share. Who finds none waits.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// A tenant may have one place in so many.
const SHARE: usize = 4;
/// Tenants of whom nothing is on its way are remembered up to this number.
const MAX_TENANTS: usize = 1024;

/// Places for large answers.
pub struct Room {
    all: Arc<Semaphore>,
    of_tenant: usize,
    tenants: Mutex<HashMap<Box<str>, Weak<Semaphore>>>,
}

/// A place, until it is dropped.
pub struct Taken {
    _all: Option<OwnedSemaphorePermit>,
    _of_tenant: Option<OwnedSemaphorePermit>,
}

impl Room {
    #[must_use]
    pub fn new(all: usize) -> Self {
        let of_tenant = all.div_ceil(SHARE);
        Self { all: Arc::new(Semaphore::new(all)), of_tenant, tenants: Mutex::default() }
    }

    /// Waits for a place. The tenant's own comes first, so that nobody has more than his share
    /// waiting for one of all.
    pub async fn take(&self, tenant: &str) -> Taken {
        // Neither is ever closed.
        let _of_tenant = self.places_of(tenant).acquire_owned().await.ok();
        Taken { _all: self.all.clone().acquire_owned().await.ok(), _of_tenant }
    }

    fn places_of(&self, tenant: &str) -> Arc<Semaphore> {
        let mut tenants = self.tenants.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(places) = tenants.get(tenant).and_then(Weak::upgrade) {
            return places;
        }
        if tenants.len() >= MAX_TENANTS {
            tenants.retain(|_, places| places.strong_count() > 0);
        }
        let places = Arc::new(Semaphore::new(self.of_tenant));
        tenants.insert(tenant.into(), Arc::downgrade(&places));
        places
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[tokio::test]
    async fn a_tenant_waits_for_its_own_and_leaves_room_for_others() {
        let room = Room::new(8);
        let now = |tenant: &'static str| room.take(tenant).now_or_never();
        let first = now("t1");
        let second = now("t1");
        assert!(first.is_some() && second.is_some() && now("t1").is_none());
        let others: Vec<_> = ["t2", "t3", "t4"].map(|t| [now(t), now(t)]).into();
        assert!(others.iter().flatten().all(Option::is_some));
        assert!(now("t5").is_none(), "no room for anybody");
        // The waiting of one that has its share takes nothing from others.
        let mut waiting: Vec<_> = (0..9).map(|_| Box::pin(room.take("t1"))).collect();
        assert!(waiting.iter_mut().all(|taken| taken.now_or_never().is_none()));
        drop(others);
        assert!(now("t5").is_some());
        drop(first);
        assert!(waiting[0].as_mut().now_or_never().is_some());
    }

    #[tokio::test]
    async fn who_has_nothing_is_forgotten() {
        let room = Room::new(8);
        let kept = room.take("kept").await;
        for n in 0..3 * MAX_TENANTS {
            drop(room.take(&n.to_string()).await);
        }
        let tenants = room.tenants.lock().expect("not poisoned");
        assert!(tenants.len() <= MAX_TENANTS && tenants.contains_key("kept"));
        drop((tenants, kept));
    }
}
