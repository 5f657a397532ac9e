use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    process::ExitCode,
};

use anyhow::{Context, Result, ensure};
use brigade::{fleet::config::RunConfig, infra::plain_http};

/// Asks the process that serves at BRIGADE_ADMIN_ADDR. Exit status 0: it lives, so that an image
/// needs no other program for its probe. The caller bounds the time.
#[derive(clap::Args)]
pub struct HealthArgs {
    /// Whether all its workers do their work (/readyz), instead of whether it lives (/livez)
    #[arg(long)]
    ready: bool,
}

pub async fn run(args: &HealthArgs) -> Result<ExitCode> {
    let address = reachable(RunConfig::from_env()?.listeners.admin);
    ensure!(address.port() != 0, "BRIGADE_ADMIN_ADDR is not set, so any port may be its own");
    let path = if args.ready { "/readyz" } else { "/livez" };
    let answer = plain_http::get(&address.to_string(), path).await;
    let (status, body) = answer.with_context(|| format!("http://{address}{path}"))?;
    ensure!(status == 200, "http://{address}{path}: {status} {}", body.trim());
    Ok(ExitCode::SUCCESS)
}

/// Returns where a process that listens on all addresses is reached from its own machine.
fn reachable(listens: SocketAddr) -> SocketAddr {
    match listens {
        SocketAddr::V4(v4) if v4.ip().is_unspecified() => (Ipv4Addr::LOCALHOST, v4.port()).into(),
        SocketAddr::V6(v6) if v6.ip().is_unspecified() => (Ipv6Addr::LOCALHOST, v6.port()).into(),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_listens_on_all_addresses_is_asked_on_loopback() {
        for (listens, asked) in [
            ("0.0.0.0:9100", "127.0.0.1:9100"),
            ("[::]:9100", "[::1]:9100"),
            ("10.0.0.7:9100", "10.0.0.7:9100"),
        ] {
            assert_eq!(reachable(listens.parse().unwrap()), asked.parse().unwrap());
        }
    }
}
