//! What stays on this machine needs no encryption.

use std::net::IpAddr;

/// The setting that lets connections go elsewhere in clear text.
pub const ALLOW_PLAINTEXT: &str = "BRIGADE_ALLOW_PLAINTEXT";

/// Returns true if what is sent to a host does not leave this machine: an address of loopback,
/// `localhost`, or the path of a Unix socket. A name is not looked up, since it may mean another
/// host the next time.
#[must_use]
pub fn is_this_machine(host: &str) -> bool {
    let address = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    match address.parse::<IpAddr>() {
        Ok(address) => address.to_canonical().is_loopback(),
        Err(_) => host.eq_ignore_ascii_case("localhost") || host.starts_with(['/', '@']),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_cannot_leave_the_machine_is_taken_for_it() {
        let local = ["127.0.0.1", "127.9.0.1", "::1", "[::1]", "::ffff:127.0.0.1", "localhost"];
        for host in local.into_iter().chain(["LOCALHOST", "/var/run/postgresql", "@abstract"]) {
            assert!(is_this_machine(host), "{host}");
        }
        let elsewhere = ["0.0.0.0", "::", "10.0.0.1", "192.168.1.1", "::ffff:10.0.0.1", "nats"];
        let names = ["localhost.example", "127.0.0.1.example", "", "nats.internal", "fe80::1"];
        for host in elsewhere.into_iter().chain(names) {
            assert!(!is_this_machine(host), "{host}");
        }
    }
}
