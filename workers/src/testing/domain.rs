//! Two nats-servers: one with the streams, and one to which workers and clients are connected.

use std::path::Path;

use anyhow::Result;
use brigade_servers::{NatsServer, port::free_port};

use super::binaries;

/// The domain of the server that has the streams.
pub(super) const HUB: &str = "hub";

/// Starts both, in `hub` and `leaf`. The accounts are those of the leaf. It has a JetStream too, of
/// another domain: what is asked for without one does not reach the hub.
pub(super) async fn start(dir: &Path, accounts: &str) -> Result<(NatsServer, NatsServer)> {
    let port = free_port()?;
    let binary = &binaries().nats_server;
    let hub = format!(
        "accounts {{ BRIGADE: {{ jetstream: enabled, \
           users: [{{ user: leaf, password: leaf }}] }} }}\n\
         leafnodes {{ listen: \"127.0.0.1:{port}\" }}\n{}",
        jetstream(HUB)
    );
    let hub = NatsServer::start(binary, &dir.join("hub"), 0, &hub).await?;
    let of_hub = accounts
        .replace("\"$JS.API.", &format!("\"$JS.{HUB}.API."))
        .replace("\"$KV.", &format!("\"$JS.{HUB}.API.$KV."));
    let remote = format!(
        "leafnodes {{ remotes: [\
           {{ url: \"nats://leaf:leaf@127.0.0.1:{port}\", account: BRIGADE }}] }}\n"
    );
    let leaf = format!("{of_hub}{remote}{}", jetstream("leaf"));
    let leaf = NatsServer::start(binary, &dir.join("leaf"), 0, &leaf).await?;
    Ok((hub, leaf))
}

fn jetstream(domain: &str) -> String {
    format!("jetstream {{ store_dir: \".\", domain: {domain}, sync_interval: always }}\n")
}
