use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

/// Queues of tenants of whom nothing waits are kept up to this number, so that a message needs no
/// new one; above it they go.
const MAX_TENANTS: usize = 1024;
/// Room that an empty queue may keep.
const ROOM: usize = 64;

/// What belongs to a tenant.
pub trait OfTenant {
    fn tenant(&self) -> &str;
}

/// A queue that serves tenants in turn, so that nobody's flood is another's wait. What waits of one
/// tenant is served in the order in which it came. Each operation takes the same time, however much
/// waits.
pub struct Shares<T> {
    tenants: HashMap<Arc<str>, VecDeque<T>>,
    /// Those of whom something waits, in the order in which they are served.
    order: VecDeque<Arc<str>>,
    len: usize,
}

impl<T> Default for Shares<T> {
    fn default() -> Self {
        Self { tenants: HashMap::new(), order: VecDeque::new(), len: 0 }
    }
}

impl<T: OfTenant> Shares<T> {
    /// Queues an item behind those of its tenant.
    pub fn push_back(&mut self, item: T) {
        let name = self.name(item.tenant());
        let queue = self.tenants.entry(name.clone()).or_default();
        if queue.is_empty() {
            self.order.push_back(name);
        }
        queue.push_back(item);
        self.len += 1;
    }

    /// Queues an item before those of its tenant, who is served next if nothing of him waited.
    pub fn push_front(&mut self, item: T) {
        let name = self.name(item.tenant());
        let queue = self.tenants.entry(name.clone()).or_default();
        if queue.is_empty() {
            self.order.push_front(name);
        }
        queue.push_front(item);
        self.len += 1;
    }

    /// Takes the oldest item of the tenant whose turn it is.
    pub fn pop(&mut self) -> Option<T> {
        let name = self.order.pop_front()?;
        let queue = self.tenants.get_mut(&name)?;
        let item = queue.pop_front();
        if queue.is_empty() {
            // A flood that is over leaves no room behind.
            queue.shrink_to(ROOM);
        } else {
            self.order.push_back(name);
        }
        self.len -= usize::from(item.is_some());
        item
    }

    /// Returns the item that [`Shares::pop`] would take.
    #[must_use]
    pub fn front(&self) -> Option<&T> {
        self.tenants.get(self.order.front()?)?.front()
    }

    /// Returns how many items of a tenant wait.
    #[must_use]
    pub fn waiting_of(&self, tenant: &str) -> usize {
        self.tenants.get(tenant).map_or(0, VecDeque::len)
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.tenants.values().flatten()
    }

    /// The name as it is kept; a new one is made only for a tenant who is not known.
    fn name(&mut self, tenant: &str) -> Arc<str> {
        if let Some((name, _)) = self.tenants.get_key_value(tenant) {
            return name.clone();
        }
        if self.tenants.len() >= MAX_TENANTS {
            self.tenants.retain(|_, queue| !queue.is_empty());
        }
        tenant.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl OfTenant for (&str, usize) {
        fn tenant(&self) -> &str {
            self.0
        }
    }

    fn all<T: OfTenant>(shares: &mut Shares<T>) -> Vec<T> {
        std::iter::from_fn(|| shares.pop()).collect()
    }

    #[test]
    fn tenants_are_served_in_turn_and_each_in_order() {
        let mut shares = Shares::default();
        for item in [("a", 1), ("a", 2), ("a", 3), ("b", 1), ("c", 1), ("b", 2)] {
            shares.push_back(item);
        }
        assert_eq!((shares.len(), shares.waiting_of("a"), shares.waiting_of("z")), (6, 3, 0));
        assert_eq!(shares.front(), Some(&("a", 1)));
        let served = [("a", 1), ("b", 1), ("c", 1), ("a", 2), ("b", 2), ("a", 3)];
        assert_eq!(all(&mut shares), served);
        assert!(shares.is_empty() && shares.front().is_none() && shares.pop().is_none());
    }

    #[test]
    fn who_comes_later_waits_for_one_item_of_each_other() {
        let mut shares = Shares::default();
        for n in 0..5000 {
            shares.push_back(("flood", n));
        }
        assert_eq!(shares.pop(), Some(("flood", 0)));
        shares.push_back(("other", 0));
        assert_eq!(shares.pop(), Some(("flood", 1)));
        assert_eq!(shares.pop(), Some(("other", 0)));
        assert_eq!(shares.len(), 4998);
    }

    #[test]
    fn what_is_put_back_in_front_comes_first() {
        let mut shares = Shares::default();
        shares.push_back(("a", 2));
        shares.push_back(("b", 1));
        shares.push_front(("a", 1));
        shares.push_front(("c", 1));
        assert_eq!(all(&mut shares), [("c", 1), ("a", 1), ("b", 1), ("a", 2)]);
    }

    #[test]
    fn what_is_kept_of_tenants_who_are_gone_is_bounded() {
        let names: Vec<_> = (0..5 * MAX_TENANTS).map(|n| n.to_string()).collect();
        let mut shares = Shares::default();
        for name in &names {
            shares.push_back((name.as_str(), 0));
            assert_eq!(shares.pop(), Some((name.as_str(), 0)));
            assert!(shares.tenants.len() <= MAX_TENANTS);
        }
        for n in 0..10 * ROOM {
            shares.push_back(("a", n));
        }
        assert_eq!(all(&mut shares).len(), 10 * ROOM);
        assert!(shares.tenants["a"].capacity() < 2 * ROOM);
    }
}
