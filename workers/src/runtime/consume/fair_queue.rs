use std::{
    collections::{HashMap, VecDeque},
    mem,
    sync::Arc,
};

/// Empty queues of tenants are kept up to this number of tenants, so that a message needs no new
/// one; above it they are dropped.
const MAX_TENANTS: usize = 1024;
/// Capacity that an empty queue may keep.
const SPARE_CAPACITY: usize = 64;

/// Something that belongs to a tenant.
pub trait HasTenant {
    fn tenant(&self) -> &str;
}

/// A queue that serves tenants in turn, so that no tenant waits for the flood of another. The items
/// of one tenant are served first in, first out. Each operation takes the same time, however much
/// waits.
pub struct FairQueue<T> {
    tenants: HashMap<Arc<str>, VecDeque<T>>,
    /// The tenants with waiting items, in the order in which they are served.
    order: VecDeque<Arc<str>>,
    len: usize,
}

impl<T> Default for FairQueue<T> {
    fn default() -> Self {
        Self { tenants: HashMap::new(), order: VecDeque::new(), len: 0 }
    }
}

impl<T: HasTenant> FairQueue<T> {
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

    /// Queues an item before those of its tenant, who is served next if no item of the tenant
    /// waited.
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
            // A flood that is over keeps no memory.
            queue.shrink_to(SPARE_CAPACITY);
        } else {
            self.order.push_back(name);
        }
        self.len -= usize::from(item.is_some());
        item
    }

    /// Takes items as long as there is room, in turn from the tenants that may be served.
    pub fn take(
        &mut self,
        mut has_room: impl FnMut(&T) -> bool,
        may: impl Fn(&str) -> bool,
    ) -> Vec<T> {
        let order = mem::take(&mut self.order);
        let (served, mut others): (VecDeque<_>, VecDeque<_>) =
            order.into_iter().partition(|name| may(name));
        self.order = served;
        let mut items = Vec::new();
        while self.front().is_some_and(&mut has_room) {
            items.extend(self.pop());
        }
        // The turn of the others has not come.
        others.append(&mut self.order);
        self.order = others;
        items
    }

    /// Returns the item that [`FairQueue::pop`] would take.
    #[must_use]
    pub fn front(&self) -> Option<&T> {
        self.front_of(|_| true)
    }

    /// Returns the first item that [`FairQueue::take`] would take.
    #[must_use]
    pub fn front_of(&self, may: impl Fn(&str) -> bool) -> Option<&T> {
        let next = self.order.iter().find(|name| may(name))?;
        self.tenants.get(next)?.front()
    }

    /// Returns the tenants with at least so many items.
    pub fn with_at_least(&self, items: usize) -> impl Iterator<Item = &Arc<str>> {
        self.order.iter().filter(move |name| self.waiting_of(name) >= items)
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

    /// Returns the shared name of a tenant; a new one is made only for an unknown tenant.
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

    impl HasTenant for (&str, usize) {
        fn tenant(&self) -> &str {
            self.0
        }
    }

    fn all<T: HasTenant>(queue: &mut FairQueue<T>) -> Vec<T> {
        std::iter::from_fn(|| queue.pop()).collect()
    }

    #[test]
    fn tenants_are_served_in_turn_and_each_in_order() {
        let mut queue = FairQueue::default();
        for item in [("a", 1), ("a", 2), ("a", 3), ("b", 1), ("c", 1), ("b", 2)] {
            queue.push_back(item);
        }
        assert_eq!((queue.len(), queue.waiting_of("a"), queue.waiting_of("z")), (6, 3, 0));
        assert_eq!(queue.front(), Some(&("a", 1)));
        let served = [("a", 1), ("b", 1), ("c", 1), ("a", 2), ("b", 2), ("a", 3)];
        assert_eq!(all(&mut queue), served);
        assert!(queue.is_empty() && queue.front().is_none() && queue.pop().is_none());
    }

    #[test]
    fn who_comes_later_waits_for_one_item_of_each_other() {
        let mut queue = FairQueue::default();
        for n in 0..5000 {
            queue.push_back(("flood", n));
        }
        assert_eq!(queue.pop(), Some(("flood", 0)));
        queue.push_back(("other", 0));
        assert_eq!(queue.pop(), Some(("flood", 1)));
        assert_eq!(queue.pop(), Some(("other", 0)));
        assert_eq!(queue.len(), 4998);
    }

    #[test]
    fn an_item_that_is_put_back_in_front_comes_first() {
        let mut queue = FairQueue::default();
        queue.push_back(("a", 2));
        queue.push_back(("b", 1));
        queue.push_front(("a", 1));
        queue.push_front(("c", 1));
        assert_eq!(all(&mut queue), [("c", 1), ("a", 1), ("b", 1), ("a", 2)]);
    }

    #[test]
    fn only_tenants_that_may_be_served_are_and_the_turn_of_the_others_stays() {
        let mut queue = FairQueue::default();
        for item in [("a", 1), ("b", 1), ("a", 2), ("c", 1), ("c", 2), ("a", 3)] {
            queue.push_back(item);
        }
        let at_least = |items| queue.with_at_least(items).map(|name| &**name).collect::<Vec<_>>();
        assert_eq!((at_least(2), at_least(3)), (vec!["a", "c"], vec!["a"]));
        let may = |tenant: &str| tenant != "b";
        assert_eq!(queue.front_of(|tenant| tenant == "c"), Some(&("c", 1)));
        assert_eq!(queue.take(|item| item.1 < 3, may), [("a", 1), ("c", 1), ("a", 2), ("c", 2)]);
        assert_eq!((queue.len(), queue.take(|_| false, may).len()), (2, 0));
        assert_eq!(all(&mut queue), [("b", 1), ("a", 3)]);
    }

    #[test]
    fn memory_of_tenants_who_are_gone_is_bounded() {
        let names: Vec<_> = (0..5 * MAX_TENANTS).map(|n| n.to_string()).collect();
        let mut queue = FairQueue::default();
        for name in &names {
            queue.push_back((name.as_str(), 0));
            assert_eq!(queue.pop(), Some((name.as_str(), 0)));
            assert!(queue.tenants.len() <= MAX_TENANTS);
        }
        for n in 0..10 * SPARE_CAPACITY {
            queue.push_back(("a", n));
        }
        assert_eq!(all(&mut queue).len(), 10 * SPARE_CAPACITY);
        assert!(queue.tenants["a"].capacity() < 2 * SPARE_CAPACITY);
    }
}
