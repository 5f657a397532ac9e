//! The connections of each network.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Returns the name by which an address is counted: of IPv6 that of its network of 64 bits, since
/// whoever has one address has all of them.
#[must_use]
pub fn network_of(address: IpAddr) -> String {
    match address.to_canonical() {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            format!("{a:x}:{b:x}:{c:x}:{d:x}::/64")
        }
    }
}

/// The connections that each network has. Networks that have none are absent.
#[derive(Clone, Default)]
pub(super) struct NetworkConnections(Arc<Mutex<HashMap<String, usize>>>);

/// One connection of a network, until it is dropped.
pub(super) struct NetworkConnection {
    network: String,
    all: NetworkConnections,
}

impl NetworkConnections {
    /// Counts a connection; `None` if its network has `most` of them. What comes from the machine
    /// itself, by its usual address, is not limited: it may be a proxy that nobody has named.
    pub(super) fn add(&self, from: IpAddr, most: usize) -> Option<NetworkConnection> {
        let from = from.to_canonical();
        let is_local = from == Ipv4Addr::LOCALHOST || from == Ipv6Addr::LOCALHOST;
        let network = network_of(from);
        let mut counts = self.counts();
        let count = counts.get(&network).copied().unwrap_or_default();
        if count >= most && !is_local {
            return None;
        }
        counts.insert(network.clone(), count + 1);
        drop(counts);
        Some(NetworkConnection { network, all: self.clone() })
    }

    fn counts(&self) -> MutexGuard<'_, HashMap<String, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for NetworkConnection {
    fn drop(&mut self) {
        let mut counts = self.all.counts();
        if let Some(count) = counts.get_mut(&self.network) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.network);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_known_by_what_cannot_be_chosen_freely() {
        let of = |address: &str| network_of(address.parse().expect("an address"));
        assert_eq!(of("192.0.2.1"), "192.0.2.1");
        assert_eq!(of("::ffff:192.0.2.1"), "192.0.2.1");
        assert_eq!(of("2001:db8:1:2:3:4:5:6"), of("2001:db8:1:2::1"));
        assert_ne!(of("2001:db8:1:2::1"), of("2001:db8:1:3::1"));
    }

    #[test]
    fn each_network_has_its_connections_and_the_machine_itself_any_number() {
        let all = NetworkConnections::default();
        let add = |from: &str| all.add(from.parse().expect("an address"), 2);
        let mut held: Vec<_> =
            ["192.0.2.1", "::ffff:192.0.2.1", "2001:db8:1:2::1", "2001:db8:1:2::2"].map(add).into();
        assert!(held.iter().all(Option::is_some));
        assert!(add("192.0.2.1").is_none() && add("2001:db8:1:2::3").is_none());
        assert!(add("192.0.2.2").is_some() && add("2001:db8:1:3::1").is_some());
        held.extend(["127.0.0.1", "::1", "::ffff:127.0.0.1"].into_iter().cycle().take(9).map(add));
        held.extend([add("127.0.0.2"), add("127.0.0.2")]);
        assert!(held.iter().all(Option::is_some) && add("127.0.0.2").is_none());
        // What has ended makes room, and who has nothing is not remembered.
        drop(held.remove(0));
        assert!(add("192.0.2.1").is_some());
        drop(held);
        assert!(all.counts().is_empty());
    }
}
