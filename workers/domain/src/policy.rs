use std::time::Duration;

use brigade_contracts::{Timestamp, lock::Live, payment::Method};

/// The lifetimes of locks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LockPolicy {
    /// From acquisition to the deadline, per method.
    pub card: Duration,
    pub wallet: Duration,
    pub qr: Duration,
    pub cash: Duration,
    /// From acquisition to the last deadline that extensions can reach.
    pub cap: Duration,
}

impl Default for LockPolicy {
    fn default() -> Self {
        let ten = Duration::from_secs(10 * 60);
        Self { card: ten, wallet: ten, qr: ten, cash: ten, cap: Duration::from_secs(30 * 60) }
    }
}

impl LockPolicy {
    #[must_use]
    pub fn timeout(&self, method: Method) -> Duration {
        match method {
            Method::Card => self.card,
            Method::Wallet => self.wallet,
            Method::Qr => self.qr,
            Method::Cash => self.cash,
        }
    }

    /// Returns the deadline that a held lock has at `now`, or `None` if it has expired. While a
    /// payment is open under it, a lock outlives its deadline, up to the cap.
    #[must_use]
    pub fn lives_until(
        &self,
        lock: &Live,
        has_open_payment: bool,
        now: Timestamp,
    ) -> Option<Timestamp> {
        if now < lock.expires_at {
            return Some(lock.expires_at);
        }
        let timeout = self.timeout(lock.method);
        let until = lock.expires_at.plus(timeout);
        // Nobody was there to extend it for longer than one timeout.
        let until = if until > now { until } else { now.plus(timeout) };
        let until = until.min(lock.acquired_at.plus(self.cap));
        (has_open_payment && until > now).then_some(until)
    }
}
