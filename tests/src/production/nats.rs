//! A cluster of three nats-servers with the configuration of the page.

use std::{fs, path::Path};

use brigade_servers::{NatsServer, port::free_port};

use super::here;
use crate::{binaries, process::signal, tls::Authority, until};

/// One of the three.
struct Node {
    number: usize,
    clients: u16,
    routes: u16,
}

/// Starts the three nodes with the accounts that are in the folder.
pub(super) async fn start(dir: &Path, authority: &Authority) -> Vec<NatsServer> {
    let port = || free_port().expect("a port");
    let nodes = [1, 2, 3].map(|number| Node { number, clients: port(), routes: port() });
    let mut servers = Vec::new();
    for (index, node) in nodes.iter().enumerate() {
        certify(dir, authority, index, false);
        let folder = dir.join(format!("nats-{}", node.number));
        fs::create_dir_all(folder.join("run")).expect("made");
        copy(&dir.join("etc/nats/accounts"), &folder.join("accounts"));
        let name = format!("nats-{}", node.number);
        let text = configuration(dir, node, &nodes);
        let binary = &binaries().nats_server;
        let server = NatsServer::start_as(binary, &folder, (&name, node.clients), &text).await;
        servers.push(server.expect("a node"));
    }
    servers
}

/// Returns the configuration of the page as it is on a node.
fn configuration(dir: &Path, node: &Node, all: &[Node]) -> String {
    let mut text = String::new();
    for line in include_str!("../../../docs/production/nats-server.conf").lines() {
        let line = match line.strip_suffix("# its own") {
            Some(own) => own.replace("nats-1", &format!("nats-{}", node.number)),
            None => line.to_owned(),
        };
        text.push_str(&line);
        text.push('\n');
    }
    let folder = dir.join(format!("nats-{}", node.number));
    let text = text
        .replace("0.0.0.0:4222", &format!("127.0.0.1:{}", node.clients))
        .replace("0.0.0.0:6222", &format!("127.0.0.1:{}", node.routes))
        .replace("/run/nats/", &format!("{}/run/", folder.display()))
        .replace("/var/lib/nats", &format!("{}/data", folder.display()));
    let text = all.iter().fold(text, |text, other| {
        let name = format!("nats-{}.internal", other.number);
        text.replace(&format!("{name}:4222"), &format!("localhost:{}", other.clients))
            .replace(&format!("{name}:6222"), &format!("localhost:{}", other.routes))
    });
    here(&folder, &text)
}

/// Writes the certificate of a node, by its index.
pub(super) fn certify(dir: &Path, authority: &Authority, index: usize, expired: bool) {
    let folder = dir.join(format!("nats-{}/etc/nats/tls", index + 1));
    fs::create_dir_all(&folder).expect("made");
    authority.issue(&folder, "server", "localhost", expired);
}

/// Copies a folder in the place of another one.
fn copy(from: &Path, to: &Path) {
    let _absent = fs::remove_dir_all(to);
    fs::create_dir_all(to.join("tenants")).expect("made");
    for folder in ["", "tenants"] {
        for entry in fs::read_dir(from.join(folder)).expect("a folder") {
            let entry = entry.expect("an entry");
            if entry.file_type().expect("a type").is_file() {
                fs::copy(entry.path(), to.join(folder).join(entry.file_name())).expect("copied");
            }
        }
    }
}

pub(super) async fn push_accounts(dir: &Path, nodes: &[NatsServer]) {
    for number in 1..=nodes.len() {
        copy(&dir.join("etc/nats/accounts"), &dir.join(format!("nats-{number}/accounts")));
    }
    for _ in 0..2 {
        for node in nodes {
            reload(node).await;
        }
    }
}

/// Has a node read its files again.
pub(super) async fn reload(node: &NatsServer) {
    let reloads = || {
        let log = fs::read_to_string(node.log()).expect("its log");
        log.matches("Reloaded server configuration").count()
    };
    let before = reloads();
    signal(node.pid(), "HUP").await;
    until("the node to have read its files", || async { (reloads() > before).then_some(()) }).await;
}
