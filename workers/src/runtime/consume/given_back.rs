use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

/// The first that a tenant is given back comes again after this time.
const SOONEST: Duration = Duration::from_millis(500);
/// Those of one tenant come again one after the other, so far apart: soon where they are few, and
/// never so many at once that others would have to wait for them.
const APART: Duration = Duration::from_millis(1);
/// Tenants are remembered up to this number, then only those of whom some have still to come.
const MAX_TENANTS: usize = 1024;

/// When the server delivers again what is given back because there is no room for it.
#[derive(Default)]
pub(super) struct GivenBack {
    /// When the last one of each tenant comes.
    last: HashMap<Box<str>, Instant>,
}

impl GivenBack {
    /// Returns after which time one more message of this tenant comes again.
    pub(super) fn delay(&mut self, tenant: &str, now: Instant) -> Duration {
        if self.last.len() >= MAX_TENANTS {
            self.last.retain(|_, last| *last > now);
        }
        let soonest = now + SOONEST;
        let last = self.last.get(tenant).copied();
        let next = last.map_or(soonest, |last| soonest.max(last + APART));
        self.last.insert(tenant.into(), next);
        next - now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_given_back_comes_again_one_after_the_other_by_tenant() {
        let (mut given_back, start) = (GivenBack::default(), Instant::now());
        for n in 0..3000 {
            assert_eq!(given_back.delay("t1", start), SOONEST + APART * n);
        }
        assert_eq!(given_back.delay("t2", start), SOONEST);
        let later = start + SOONEST + APART * 3000;
        assert_eq!(given_back.delay("t1", later), SOONEST);
        for n in 0..2 * MAX_TENANTS {
            given_back.delay(&n.to_string(), later + SOONEST * u32::try_from(n).unwrap());
        }
        assert!(given_back.last.len() <= MAX_TENANTS);
    }
}
