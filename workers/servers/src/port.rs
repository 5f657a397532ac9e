//! Free ports for servers that are told none.

use std::{
    net::{Ipv4Addr, TcpListener},
    ops::Range,
};

use anyhow::{Context, Result};

/// Below the ports that systems lend to outgoing connections (Linux from 32768, macOS from 49152).
/// A client that reconnects without pause to a lent port of a dead server would sooner or later be
/// given that very port as its own, connect to itself, and keep the server from coming back.
const RANGE: Range<u16> = 20_000..32_000;

/// With most of the range free, one try nearly always does.
const TRIES: usize = 200;

/// Somebody else took the port between the look and the server's bind.
#[derive(Debug, thiserror::Error)]
#[error("port {0} on 127.0.0.1 is already in use: name another one, or 0 for any free one")]
pub struct PortTaken(pub(super) u16);

/// How often a start without a named port looks for another one.
pub const STARTS: usize = 5;

/// A port that is free now; nothing reserves it.
pub fn free_port() -> Result<u16> {
    (0..TRIES)
        .map(|_| rand::random_range(RANGE))
        .find(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok())
        .with_context(|| format!("found no free port on 127.0.0.1 in {RANGE:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_free_port_can_be_bound() -> Result<()> {
        let port = free_port()?;
        assert!(RANGE.contains(&port));
        Ok(())
    }
}
