//! Starts servers on free ports.

use std::{
    net::{Ipv4Addr, TcpListener},
    ops::Range,
};

use anyhow::{Context, Result};

/// Below the ephemeral ports of outgoing connections (Linux from 32768, macOS from 49152). A client
/// that reconnects without pause to an ephemeral port of a dead server would sooner or later get
/// that very port as its own, connect to itself, and keep the server from coming back.
const RANGE: Range<u16> = 20_000..32_000;

/// The number of random ports that are tried. Most of the range is free, so one nearly always does.
const TRIES: usize = 200;

/// Another process took the port before the server was bound to it.
#[derive(Debug, thiserror::Error)]
#[error("port {0} on 127.0.0.1 is already in use: name another one, or 0 for any free one")]
pub struct PortTaken(pub(super) u16);

/// The number of attempts to start a server on a free port.
pub const STARTS: usize = 5;

/// Starts a server on a port, or on any free one if the port is 0. Returns the port with the result
/// of `start`.
pub async fn start_on_port<T>(
    port: u16,
    start: impl AsyncFn(u16) -> Result<T>,
) -> Result<(u16, T)> {
    let mut starts = 0;
    loop {
        starts += 1;
        let chosen = if port == 0 { free_port()? } else { port };
        match start(chosen).await {
            Err(error) if port == 0 && error.is::<PortTaken>() && starts < STARTS => {}
            started => return Ok((chosen, started?)),
        }
    }
}

/// Returns a port that is free now; nothing reserves it.
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
