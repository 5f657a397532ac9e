use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::Router;

/// Where a worker puts the routes that its process serves while it is there. Of several, those
/// that came last are served.
#[derive(Clone, Debug, Default)]
pub struct Slot(Arc<Mutex<Routers>>);

#[derive(Debug, Default)]
struct Routers {
    next: u64,
    filled: Vec<(u64, Router)>,
}

/// Takes the routes out again when it is dropped.
pub struct Filled {
    slot: Slot,
    number: u64,
}

impl Slot {
    #[must_use]
    pub fn fill(&self, router: Router) -> Filled {
        let mut routers = self.routers();
        let number = routers.next;
        routers.next += 1;
        routers.filled.push((number, router));
        Filled { slot: self.clone(), number }
    }

    /// What is served now.
    #[must_use]
    pub fn router(&self) -> Option<Router> {
        self.routers().filled.last().map(|(_, router)| router.clone())
    }

    fn routers(&self) -> MutexGuard<'_, Routers> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Filled {
    fn drop(&mut self) {
        self.slot.routers().filled.retain(|(number, _)| *number != self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_last_is_served_until_it_goes() {
        let slot = Slot::default();
        let has = |path: &str| {
            let router = slot.router();
            router.is_some_and(|router| format!("{router:?}").contains(path))
        };
        assert!(slot.router().is_none());
        let route = |path: &str| Router::new().route(path, axum::routing::get(|| async {}));
        let first = slot.fill(route("/first"));
        let second = slot.fill(route("/second"));
        assert!(has("/second") && !has("/first"));
        drop(first);
        assert!(has("/second"));
        let third = slot.fill(route("/third"));
        drop(third);
        assert!(has("/second"));
        drop(second);
        assert!(slot.router().is_none());
    }
}
