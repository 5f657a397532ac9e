//! The connections of a server, of which the one that has been idle for the longest time makes room
//! for a new one. A connection is idle while it has no request, also before its first one.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio_util::sync::CancellationToken;

/// All connections of a server.
#[derive(Clone, Default)]
pub(super) struct Connections(Arc<Mutex<ConnectionIndex>>);

#[derive(Default)]
struct ConnectionIndex {
    /// Numbers connections, and the moments at which they become idle.
    next: u64,
    open: HashMap<u64, ConnectionActivity>,
    /// The idle ones, by when they became idle.
    idle: BTreeMap<u64, u64>,
}

struct ConnectionActivity {
    in_flight: usize,
    idle_since: u64,
    close: CancellationToken,
}

/// A connection, until it is dropped.
pub(super) struct OpenConnection {
    number: u64,
    all: Connections,
    /// Cancelled when the connection has to make room.
    pub(super) close: CancellationToken,
}

/// A request that a connection has, until it is dropped.
pub(super) struct RequestInFlight(Arc<OpenConnection>);

impl Connections {
    /// Adds a connection, which is idle.
    pub(super) fn open(&self) -> Arc<OpenConnection> {
        let close = CancellationToken::new();
        let mut state = self.state();
        let number = state.tick();
        let open = ConnectionActivity { in_flight: 0, idle_since: number, close: close.clone() };
        state.open.insert(number, open);
        state.idle.insert(number, number);
        drop(state);
        Arc::new(OpenConnection { number, all: self.clone(), close })
    }

    /// Closes the connection that has been idle for the longest time, if one is idle.
    pub(super) fn close_an_idle_one(&self) {
        let mut state = self.state();
        let oldest = state.idle.pop_first();
        if let Some(open) = oldest.and_then(|(_, number)| state.open.get(&number)) {
            open.close.cancel();
        }
    }

    fn state(&self) -> MutexGuard<'_, ConnectionIndex> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ConnectionIndex {
    fn tick(&mut self) -> u64 {
        self.next += 1;
        self.next
    }
}

impl OpenConnection {
    /// Counts a request.
    pub(super) fn begin(self: &Arc<Self>) -> RequestInFlight {
        let mut state = self.all.state();
        if let Some(open) = state.open.get_mut(&self.number) {
            open.in_flight += 1;
            let idle_since = open.idle_since;
            state.idle.remove(&idle_since);
        }
        drop(state);
        RequestInFlight(self.clone())
    }
}

impl Drop for RequestInFlight {
    fn drop(&mut self) {
        let OpenConnection { number, all, .. } = &*self.0;
        let mut state = all.state();
        let now = state.tick();
        let Some(open) = state.open.get_mut(number) else { return };
        open.in_flight -= 1;
        if open.in_flight == 0 {
            open.idle_since = now;
            state.idle.insert(now, *number);
        }
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        let mut state = self.all.state();
        if let Some(open) = state.open.remove(&self.number) {
            state.idle.remove(&open.idle_since);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_connection_that_is_idle_for_the_longest_time_makes_room() {
        let all = Connections::default();
        let [first, second, third] = [(); 3].map(|()| all.open());
        let closed = || [&first, &second, &third].map(|open| open.close.is_cancelled());
        let of_second = second.begin();
        let [one, other] = [(); 2].map(|()| first.begin());
        drop(one);
        // The first one has a request left, the second one is busy.
        all.close_an_idle_one();
        assert_eq!(closed(), [false, false, true]);
        all.close_an_idle_one();
        assert_eq!(closed(), [false, false, true], "nobody else is idle");
        drop(of_second);
        drop(other);
        all.close_an_idle_one();
        assert_eq!(closed(), [false, true, true], "it has been idle for longer");
        drop((second, third));
        all.close_an_idle_one();
        assert!(first.close.is_cancelled());
        drop(first);
        let state = all.state();
        assert!(state.open.is_empty() && state.idle.is_empty());
    }
}
