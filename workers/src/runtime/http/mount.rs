//! The place at which a worker mounts its routes in the server of its process.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::Router;

/// The mount point of routes. Of several routers, the one that was mounted last is served.
#[derive(Clone, Debug, Default)]
pub struct RouterMount(Arc<Mutex<MountedRouters>>);

#[derive(Debug, Default)]
struct MountedRouters {
    next: u64,
    mounted: Vec<(u64, Router)>,
}

/// A router that is served until this is dropped.
pub struct MountedRouter {
    mount: RouterMount,
    number: u64,
}

impl RouterMount {
    /// Mounts a router.
    #[must_use]
    pub fn mount(&self, router: Router) -> MountedRouter {
        let mut routers = self.routers();
        let number = routers.next;
        routers.next += 1;
        routers.mounted.push((number, router));
        MountedRouter { mount: self.clone(), number }
    }

    /// Returns the router that is served now.
    #[must_use]
    pub fn router(&self) -> Option<Router> {
        self.routers().mounted.last().map(|(_, router)| router.clone())
    }

    fn routers(&self) -> MutexGuard<'_, MountedRouters> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for MountedRouter {
    fn drop(&mut self) {
        self.mount.routers().mounted.retain(|(number, _)| *number != self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_mounted_last_is_served_until_it_goes() {
        let mount = RouterMount::default();
        let has = |path: &str| {
            let router = mount.router();
            router.is_some_and(|router| format!("{router:?}").contains(path))
        };
        assert!(mount.router().is_none());
        let route = |path: &str| Router::new().route(path, axum::routing::get(|| async {}));
        let first = mount.mount(route("/first"));
        let second = mount.mount(route("/second"));
        assert!(has("/second") && !has("/first"));
        drop(first);
        assert!(has("/second"));
        let third = mount.mount(route("/third"));
        drop(third);
        assert!(has("/second"));
        drop(second);
        assert!(mount.router().is_none());
    }
}
