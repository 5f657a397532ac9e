//! The rate of large responses over NATS, of each tenant. The server takes whatever is sent and
//! keeps it for clients that do not read, so a budget of bytes on their way alone would let one
//! tenant fill its memory.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// Bytes of large responses that a tenant gets in a second, in the long run.
const PER_SECOND: u64 = 16 * 1024 * 1024;
/// Tenants whose allowance is whole are remembered up to this number.
const MAX_TENANTS: usize = 1024;

/// The allowances of all tenants: so many bytes at once, which come back at a steady rate.
pub struct ResponseRate {
    /// The time in which a whole allowance comes back.
    whole: Duration,
    /// When the allowance of a tenant is whole again.
    tenants: Mutex<HashMap<Box<str>, Instant>>,
}

impl ResponseRate {
    /// Creates allowances of so many bytes.
    #[must_use]
    pub fn new(bytes: usize) -> Self {
        Self { whole: time_of(bytes), tenants: Mutex::default() }
    }

    /// Takes a response from the allowance of a tenant.
    ///
    /// # Errors
    /// If the allowance is used up, with the time until there is room again.
    pub fn take(&self, tenant: &str, bytes: usize) -> Result<(), Duration> {
        let now = Instant::now();
        let mut tenants = self.tenants();
        let before = tenants.get(tenant).map_or(now, |&whole_at| whole_at.max(now));
        let missing = before - now + time_of(bytes);
        if missing > self.whole {
            return Err(missing - self.whole);
        }
        if tenants.len() >= MAX_TENANTS {
            tenants.retain(|_, whole_at| *whole_at > now);
        }
        tenants.insert(tenant.into(), now + missing);
        Ok(())
    }

    fn tenants(&self) -> MutexGuard<'_, HashMap<Box<str>, Instant>> {
        self.tenants.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns the time in which so many bytes may be sent.
fn time_of(bytes: usize) -> Duration {
    let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
    Duration::from_nanos(bytes.saturating_mul(1_000_000_000) / PER_SECOND)
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    /// As many bytes as come back in a quarter of a second.
    const LARGE: usize = 4 * 1024 * 1024;

    #[tokio::test(start_paused = true)]
    async fn a_tenant_has_its_allowance_at_once_and_then_its_rate() {
        let rate = ResponseRate::new(3 * LARGE);
        let quarter = Duration::from_millis(250);
        for _ in 0..3 {
            assert_eq!(rate.take("t1", LARGE), Ok(()));
        }
        assert_eq!(rate.take("t1", LARGE), Err(quarter));
        assert_eq!(rate.take("t1", LARGE / 2), Err(quarter / 2), "what is refused costs nothing");
        assert_eq!(rate.take("t2", LARGE), Ok(()), "others have their own");
        for _ in 0..8 {
            advance(quarter).await;
            assert_eq!((rate.take("t1", LARGE), rate.take("t1", 1).is_err()), (Ok(()), true));
        }
        // No more than the whole allowance is saved up.
        advance(quarter * 100).await;
        let taken = (0..9).filter(|_| rate.take("t1", LARGE).is_ok());
        assert_eq!(taken.count(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn who_asks_no_more_is_forgotten() {
        let rate = ResponseRate::new(LARGE);
        for n in 0..3 * MAX_TENANTS {
            assert_eq!(rate.take(&n.to_string(), LARGE), Ok(()));
            advance(Duration::from_millis(300)).await;
        }
        assert!(rate.tenants().len() <= MAX_TENANTS);
    }
}
