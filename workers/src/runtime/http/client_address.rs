//! The address of a client: that of its connection or, where that comes from a trusted proxy, the
//! one that the proxy tells.
//!
//! A proxy appends the address that it was connected from to `X-Forwarded-For`, or to `Forwarded`
//! (RFC 7239), behind whatever its client has written there. So both are read from right to left:
//! the first address that is no trusted proxy's is the client's, and nothing left of it counts.
//! What cannot be read ends the way as well: the client then is the last proxy that is known.

use std::{
    net::{IpAddr, Ipv6Addr, SocketAddr},
    str::FromStr,
    sync::Arc,
};

use anyhow::Context as _;
use axum::http::HeaderMap;
use ipnet::IpNet;

const FORWARDED: &str = "forwarded";
const X_FORWARDED_FOR: &str = "x-forwarded-for";

/// The address that a request came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientAddress(pub IpAddr);

/// The networks whose hosts are believed what they tell of their clients.
#[derive(Clone, Debug, Default)]
pub struct TrustedProxies(Arc<[IpNet]>);

impl FromStr for TrustedProxies {
    type Err = anyhow::Error;

    /// Reads networks in CIDR notation, and single addresses, separated by commas.
    fn from_str(list: &str) -> anyhow::Result<Self> {
        let network = |text: &str| {
            let address = text.parse::<IpAddr>().map(|address| IpNet::from(address.to_canonical()));
            address.or_else(|_| text.parse()).with_context(|| format!("{text:?} is no network"))
        };
        let texts = list.split(',').map(str::trim).filter(|text| !text.is_empty());
        Ok(Self(texts.map(network).collect::<anyhow::Result<_>>()?))
    }
}

impl TrustedProxies {
    /// Returns whether an address is that of a trusted proxy.
    pub(super) fn has(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|network| network.contains(&address))
    }

    /// Returns the client of a request that came over a connection from `peer`.
    ///
    /// A proxy appends to one of the two headers, and lets the other one through as its client has
    /// written it. Which one is not known here, so where they differ, neither is believed.
    pub(super) fn client(&self, peer: IpAddr, headers: &HeaderMap) -> ClientAddress {
        let peer = peer.to_canonical();
        let told = |name, read: fn(&str) -> Option<IpAddr>| {
            headers.contains_key(name).then(|| self.behind(peer, hops(headers, name).map(read)))
        };
        let client = match self.has(peer) {
            true => match (told(FORWARDED, forwarded_for), told(X_FORWARDED_FOR, address)) {
                (Some(one), Some(other)) if one != other => peer,
                (Some(told), _) | (None, Some(told)) => told,
                (None, None) => peer,
            },
            false => peer,
        };
        ClientAddress(client)
    }

    /// Returns the first address of a way that is no proxy's, else the last one that is known.
    fn behind(&self, peer: IpAddr, hops: impl Iterator<Item = Option<IpAddr>>) -> IpAddr {
        let mut nearest = peer;
        for hop in hops {
            match hop {
                Some(hop) if self.has(hop) => nearest = hop,
                Some(client) => return client,
                None => break,
            }
        }
        nearest
    }
}

/// Returns the elements of a header from right to left. A comma between quotation marks divides as
/// well, since an address has none: a mark that a client leaves open hides nothing of what follows.
fn hops<'a>(headers: &'a HeaderMap, name: &'static str) -> impl Iterator<Item = &'a str> {
    let values = headers.get_all(name).into_iter().rev();
    let elements = values.flat_map(|value| value.as_bytes().rsplit(|byte| *byte == b','));
    elements.map(|element| str::from_utf8(element).unwrap_or_default())
}

/// Reads `for` of an element of `Forwarded`; `None` if it is hidden, unknown or not there once.
fn forwarded_for(element: &str) -> Option<IpAddr> {
    let pairs = element.split(';').filter_map(|pair| pair.split_once('='));
    let mut found = pairs.filter(|(name, _)| name.trim().eq_ignore_ascii_case("for"));
    let (_, value) = found.next().filter(|_| found.next().is_none())?;
    let value = value.trim();
    address(value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value))
}

/// Reads an address, which may have a port, and brackets if it is one of IPv6.
fn address(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    let plain = || text.parse::<IpAddr>().ok();
    let with_port = || text.parse::<SocketAddr>().ok().map(|address| address.ip());
    let bracketed = || {
        let inner = text.strip_prefix('[')?.strip_suffix(']')?;
        inner.parse::<Ipv6Addr>().ok().map(IpAddr::from)
    };
    plain().or_else(with_port).or_else(bracketed).map(|address| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn proxies() -> TrustedProxies {
        "10.0.0.0/8, 2001:db8:1::/48,192.0.2.9".parse().unwrap()
    }

    fn client(peer: &str, headers: &[(&'static str, &str)]) -> String {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, value.parse().unwrap());
        }
        proxies().client(peer.parse().unwrap(), &map).0.to_string()
    }

    #[test]
    fn a_network_is_written_as_cidr_or_as_an_address() {
        for (address, is_trusted) in [
            ("10.1.2.3", true),
            ("::ffff:10.1.2.3", true),
            ("11.0.0.1", false),
            ("2001:db8:1:2::3", true),
            ("2001:db8:2::1", false),
            ("192.0.2.9", true),
            ("192.0.2.8", false),
        ] {
            assert_eq!(proxies().has(address.parse().unwrap()), is_trusted, "{address}");
        }
        assert!("".parse::<TrustedProxies>().unwrap().0.is_empty());
        for bad in ["10.0.0.0/33", "proxy.example", "10.0.0", "*"] {
            assert!(bad.parse::<TrustedProxies>().is_err(), "{bad}");
        }
    }

    #[test]
    fn the_client_is_the_first_from_the_right_that_is_no_proxy() {
        let proxied = |name, value: &str| client("10.0.0.1", &[(name, value)]);
        for (told, expected) in [
            ("203.0.113.7", "203.0.113.7"),
            ("198.51.100.1, 203.0.113.7", "203.0.113.7"),
            ("203.0.113.7, 10.0.0.2", "203.0.113.7"),
            ("203.0.113.7, 192.0.2.9 ,10.0.0.2", "203.0.113.7"),
            ("10.0.0.3, 10.0.0.2", "10.0.0.3"),
            ("203.0.113.7:4711", "203.0.113.7"),
            ("2001:db8::7", "2001:db8::7"),
            ("[2001:db8::7]:4711", "2001:db8::7"),
            ("[2001:db8::7]", "2001:db8::7"),
            ("::ffff:203.0.113.7", "203.0.113.7"),
            // What cannot be read ends the way.
            ("", "10.0.0.1"),
            ("203.0.113.7, unknown", "10.0.0.1"),
            ("203.0.113.7, unknown, 10.0.0.2", "10.0.0.2"),
            ("203.0.113.7,", "10.0.0.1"),
        ] {
            assert_eq!(proxied("x-forwarded-for", told), expected, "{told}");
        }
        for (told, expected) in [
            ("for=203.0.113.7", "203.0.113.7"),
            ("For=\"[2001:db8::7]:4711\";proto=https;by=10.0.0.1", "2001:db8::7"),
            ("for=198.51.100.1, for=203.0.113.7;host=a", "203.0.113.7"),
            ("for=203.0.113.7, proto=https; for=10.0.0.2", "203.0.113.7"),
            ("for=\"_hidden\"", "10.0.0.1"),
            ("for=203.0.113.7;for=203.0.113.8", "10.0.0.1"),
            ("proto=https", "10.0.0.1"),
            // A quotation mark that a client leaves open.
            ("for=\"198.51.100.1, for=203.0.113.7", "203.0.113.7"),
        ] {
            assert_eq!(proxied("forwarded", told), expected, "{told}");
        }
        // Several headers are one.
        let two = [("x-forwarded-for", "198.51.100.1"), ("x-forwarded-for", "203.0.113.7")];
        assert_eq!(client("10.0.0.1", &two), "203.0.113.7");
    }

    #[test]
    fn nobody_else_is_believed_and_neither_are_two_who_differ() {
        let forged = [("forwarded", "for=198.51.100.1"), ("x-forwarded-for", "198.51.100.1")];
        assert_eq!(client("203.0.113.7", &forged), "203.0.113.7");
        assert_eq!(client("10.0.0.1", &forged), "198.51.100.1");
        let differ = [("forwarded", "for=198.51.100.1"), ("x-forwarded-for", "203.0.113.7")];
        assert_eq!(client("10.0.0.1", &differ), "10.0.0.1");
        assert_eq!(client("10.0.0.1", &[]), "10.0.0.1");
    }

    proptest! {
        /// Whatever a client writes there, the proxy appends its address behind it.
        #[test]
        fn what_a_client_forges_changes_nothing(forged in "[ -~]{0,60}") {
            let told = format!("{forged}, 203.0.113.7");
            prop_assert_eq!(client("10.0.0.1", &[("x-forwarded-for", &told)]), "203.0.113.7");
            let told = format!("{forged}, for=203.0.113.7");
            prop_assert_eq!(client("10.0.0.1", &[("forwarded", &told)]), "203.0.113.7");
        }
    }
}
