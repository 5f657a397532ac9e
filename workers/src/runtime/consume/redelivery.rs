use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use super::fair_queue::HasTenant;

/// Delay of the first message that a tenant is given back.
const FIRST_DELAY: Duration = Duration::from_millis(500);
/// Time between two redeliveries of one tenant. They are soon where they are few, and never so many
/// at once that others would have to wait for them.
const SPACING: Duration = Duration::from_millis(1);
/// Tenants are remembered up to this number; then only those with redeliveries still to come.
const MAX_TENANTS: usize = 1024;

/// The times at which the server delivers messages again that found no room.
#[derive(Default)]
pub(super) struct RedeliverySchedule {
    /// The last redelivery of each tenant.
    last: HashMap<Box<str>, Instant>,
}

impl RedeliverySchedule {
    /// Returns the delay after which one more message of its tenant is to be delivered again.
    pub(super) fn delay(&mut self, message: &impl HasTenant, now: Instant) -> Duration {
        if self.last.len() >= MAX_TENANTS {
            self.last.retain(|_, last| *last > now);
        }
        let tenant = message.tenant();
        let soonest = now + FIRST_DELAY;
        let last = self.last.get(tenant).copied();
        let next = last.map_or(soonest, |last| soonest.max(last + SPACING));
        self.last.insert(tenant.into(), next);
        next - now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_redelivered_one_after_the_other_by_tenant() {
        let (mut schedule, start) = (RedeliverySchedule::default(), Instant::now());
        for n in 0..3000 {
            assert_eq!(schedule.delay(&("t1", 0), start), FIRST_DELAY + SPACING * n);
        }
        assert_eq!(schedule.delay(&("t2", 0), start), FIRST_DELAY);
        let later = start + FIRST_DELAY + SPACING * 3000;
        assert_eq!(schedule.delay(&("t1", 0), later), FIRST_DELAY);
        for n in 0..2 * MAX_TENANTS {
            let at = later + FIRST_DELAY * u32::try_from(n).unwrap();
            schedule.delay(&(n.to_string().as_str(), 0), at);
        }
        assert!(schedule.last.len() <= MAX_TENANTS);
    }
}
