//! The pauses between attempts to connect.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use async_nats::Server;

/// A constant pause while a server is away: the client's own grows, and comes 1 s late after an
/// outage of 3 s.
pub const RECONNECT_DELAY: Duration = Duration::from_millis(10);
/// The pause after a first refusal of the credentials, which doubles with each further one: nothing
/// but an operator mends that, and a server logs each refusal.
const REFUSED: Duration = Duration::from_millis(100);
const REFUSED_AT_MOST: Duration = Duration::from_secs(5);

/// The advice to an operator about a refusal, as a part of the reason.
const WHAT_TO_DO: &str = "nats-server does not know this user with this password, nkey or \
                          certificate; what it knows stands in fleet.conf of the folder of \
                          accounts, which it reads when it is reloaded (`brigade tenants sync`)";

/// Returns true if a server has refused the credentials.
#[must_use]
pub fn is_refusal(why: &str) -> bool {
    why.to_ascii_lowercase().contains("authorization violation")
}

/// Returns why a connection was not made, with what to do if the credentials were refused.
#[must_use]
pub fn explained(why: String) -> String {
    if is_refusal(&why) { format!("{why}: {WHAT_TO_DO}") } else { why }
}

/// Returns the pause after so many refusals since the last connection.
#[must_use]
pub fn pause(refusals: u32) -> Duration {
    match refusals {
        0 => RECONNECT_DELAY,
        n => REFUSED.saturating_mul(1 << (n - 1).min(16)).min(REFUSED_AT_MOST),
    }
}

/// The refusals of the client library's connection, which it tells only by its list of servers.
#[derive(Default)]
pub struct Refusals(Mutex<Seen>);

#[derive(Default)]
struct Seen {
    refusals: u32,
    /// Failed attempts at those servers that refused the last one.
    attempts: usize,
}

impl Refusals {
    /// Looks at the servers before an attempt.
    pub fn look(&self, servers: &[Server]) {
        let refused = |server: &&Server| server.last_error.as_deref().is_some_and(is_refusal);
        self.seen(servers.iter().filter(refused).map(|server| server.failed_attempts).sum());
    }

    fn seen(&self, attempts: usize) {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if attempts > seen.attempts {
            seen.refusals = seen.refusals.saturating_add(1);
        }
        seen.attempts = attempts;
    }

    /// There is a connection: the next attempt is made soon.
    pub fn connected(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).refusals = 0;
    }

    /// Returns the pause before the next attempt.
    pub fn pause(&self) -> Duration {
        pause(self.0.lock().unwrap_or_else(PoisonError::into_inner).refusals)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_grows_while_the_credentials_are_refused_and_only_then() {
        let refusals = Refusals::default();
        let mut pauses = Vec::new();
        for attempts in 0..9 {
            refusals.seen(attempts);
            pauses.push(refusals.pause().as_millis());
        }
        assert_eq!(pauses, [10, 100, 200, 400, 800, 1600, 3200, 5000, 5000]);
        refusals.connected();
        // A refusal of long ago, at a server that was not tried since.
        refusals.seen(8);
        assert_eq!(refusals.pause(), RECONNECT_DELAY);
        refusals.seen(9);
        assert_eq!(refusals.pause(), REFUSED);
        assert_eq!(pause(u32::MAX), REFUSED_AT_MOST);
    }
}
