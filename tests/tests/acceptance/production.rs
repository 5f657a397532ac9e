//! S5-12: `docs/production.md`, as far as one machine goes: a cluster with certificates, a synchronous
//! standby, a pooler and a process for each worker, started with the files and commands of the page.

use std::{fs, net::SocketAddr, sync::Arc};

use async_nats::{Client, HeaderMap, jetstream};
use brigade::infra::nats::{NatsCredentials, NatsOptions};
use brigade_contracts::WorkerName;
use brigade_tests::{
    Producer,
    process::Process,
    producer::placed,
    production::{PASSWORD, Production, start_all},
    tls::Authority,
    until,
};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::{
    TlsConnector,
    rustls::{
        ClientConfig, RootCertStore,
        pki_types::{CertificateDer, ServerName, pem::PemObject},
    },
};

/// A user of a tenant, and its password.
fn credential(printed: &Value, user: &str) -> (String, String) {
    let users = printed["users"].as_array().expect("users");
    let found = users.iter().find(|found| found["user"] == user).expect("the user");
    (user.to_owned(), found["password"].as_str().expect("a password").to_owned())
}

async fn producer(production: &Production, (user, password): &(String, String)) -> Producer {
    let client = production.connect(user, password).await.expect("connected");
    Producer::new(client, "demo")
}

/// Places an order by either door, and reads both.
async fn both_doors(producer: &Producer, name: &str) {
    let order = || placed(&[("Soup", 500, 1)]);
    let place = format!("order.{name}-r.place");
    let reply = producer.send_until_decided(&format!("{name}-r"), &place, order()).await;
    assert_eq!(reply.status, 201, "{}", reply.body());
    store(producer, &format!("{name}-d"), order()).await;
    for door in ["r", "d"] {
        // That there is an edge again may not yet be known to the node that is asked: no responders.
        until("the order to be seen", || async {
            let query = format!("q.demo.view.order.{name}-{door}");
            let view = producer.request(&query, &[], b"").await?;
            (view.status == 200 && view.body()["core"]["total"] == 500).then_some(())
        })
        .await;
    }
}

/// Places an order by the durable door, again until there is a PubAck: a leader may just be elected.
async fn store(producer: &Producer, name: &str, order: Value) {
    let js = jetstream::new(producer.client.clone());
    until("a PubAck", || async {
        let mut headers = HeaderMap::new();
        headers.insert("Command-Id", name);
        let (subject, payload) = (format!("cmd.demo.order.{name}.place"), order.to_string());
        let sent = js.publish_with_headers(subject, headers, payload.into()).await.ok()?;
        sent.await.ok()
    })
    .await;
}

fn of(processes: &[Process], worker: WorkerName) -> &Process {
    let at = WorkerName::ALL.iter().position(|name| *name == worker).expect("a worker");
    &processes[at]
}

/// Counts the lines of a log that have both texts.
fn logged(process: &Process, texts: [&str; 2]) -> usize {
    process.log().lines().filter(|line| texts.iter().all(|text| line.contains(text))).count()
}

/// Returns the answer of a worker's HTTPS to a GET.
async fn get(production: &Production, process: &Process, path: &str) -> String {
    let mut roots = RootCertStore::empty();
    let authority = CertificateDer::from_pem_file(production.path("/etc/brigade/ca.pem"));
    roots.add(authority.expect("PEM")).expect("an authority");
    let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let address: SocketAddr =
        process.http().trim_start_matches("http://").parse().expect("an address");
    let stream = TcpStream::connect(address).await.expect("connected");
    let name = ServerName::try_from("127.0.0.1").expect("a name");
    let mut stream =
        TlsConnector::from(Arc::new(config)).connect(name, stream).await.expect("trusted");
    let request = format!("GET {path} HTTP/1.1\r\nhost: api\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut answer = Vec::new();
    // It may close without a farewell.
    let _closed = stream.read_to_end(&mut answer).await;
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn s5_12_the_page_for_production_is_followed_step_by_step() {
    let mut production = Production::start().await;
    assert!(production.operate("migrate").await.status.success());
    until("the streams to be made", || async {
        production.operate("provision").await.status.success().then_some(())
    })
    .await;
    let processes = start_all(|worker| production.run(worker)).await;
    let add = "tenants add demo --accounts /etc/nats/accounts --json";
    let first = credential(&production.json(add).await, "demo-backend");
    production.push_accounts().await;
    let backend = producer(&production, &first).await;
    both_doors(&backend, "first").await;
    let edge = of(&processes, WorkerName::Edge);
    assert!(get(&production, edge, "/v1/openapi.json").await.starts_with("HTTP/1.1 200"));
    for inner in ["/livez", "/readyz", "/metrics"] {
        assert!(get(&production, edge, inner).await.starts_with("HTTP/1.1 404"), "{inner}");
        let told = reqwest::get(format!("{}{inner}", edge.admin())).await.expect("an answer");
        assert_eq!(told.status(), 200, "{inner}");
    }

    only_who_shows_a_certificate_comes_in(&production, &first).await;
    every_stream_has_three_replicas(&production).await;
    a_node_is_lost(&mut production, &backend).await;
    the_standby_is_lost(&mut production, &backend).await;
    let next = a_tenants_credential_is_rotated(&production, &first).await;
    passwords_of_a_worker_are_rotated(&production, edge, &next).await;
    a_certificate_is_renewed(&production, &next).await;
    let starts = |process| logged(process, ["\"message\":\"started\"", ""]);
    for process in &processes {
        assert_eq!(starts(process), 1, "{}", process.log());
    }
    the_primary_is_lost(&mut production, &next).await;
    for process in &processes {
        assert_eq!(logged(process, ["permission violation", ""]), 0, "{}", process.log());
        // With the new era of the database each worker forgets what it has remembered.
        assert_eq!(starts(process), 2, "{}", process.log());
    }
}

async fn only_who_shows_a_certificate_comes_in(
    production: &Production,
    (user, password): &(String, String),
) {
    let url = production.nats_url(user, password);
    let authority = production.path("/etc/brigade/ca.pem");
    let without = NatsOptions { authority: Some(authority), ..NatsOptions::default() };
    let elsewhere = tempfile::tempdir().expect("a folder");
    let foreign = Authority::new().certify_client(elsewhere.path()).nats_options();
    let foreign = NatsOptions { authority: without.authority.clone(), ..foreign };
    for options in [without, foreign] {
        let credentials = NatsCredentials::parse(&url, "program", &options).expect("a URL");
        let (options, servers) = credentials.options();
        assert!(options.connect(servers).await.is_err());
    }
    // The URL of the page goes nowhere in clear text.
    let wrong = production.connect(user, "wrong").await.unwrap_err().to_string();
    assert!(wrong.contains("authorization violation"), "{wrong}");
}

async fn operator(production: &Production) -> Client {
    let url = fs::read_to_string(production.path("/etc/brigade/operator/nats-url"));
    production.connect_to(&url.expect("a URL")).await.expect("connected")
}

async fn every_stream_has_three_replicas(production: &Production) {
    let js = jetstream::new(operator(production).await);
    for stream in ["EVENTS", "DLQ", "TIMERS", "KV_views", "KV_versions"] {
        let found = js.get_stream(stream).await.expect("the stream");
        assert_eq!(found.cached_info().config.num_replicas, 3, "{stream}");
    }
}

/// Each in turn, so that the leaders of all streams are among them.
async fn a_node_is_lost(production: &mut Production, backend: &Producer) {
    for node in 0..production.nodes.len() {
        production.nodes[node].kill().await;
        let id = format!("without-{node}");
        let place = format!("order.{id}.place");
        let reply = backend.send_until_decided(&id, &place, placed(&[("Soup", 500, 1)])).await;
        assert_eq!(reply.status, 201, "{}", reply.body());
        production.nodes[node].restart().await.expect("it comes back");
        until("the node to have what the others have", || async {
            let report = jetstream::new(operator(production).await);
            let mut stream = report.get_stream("EVENTS").await.ok()?;
            let cluster = stream.info().await.ok()?.cluster.clone()?;
            cluster.replicas.iter().all(|replica| replica.current).then_some(())
        })
        .await;
    }
    both_doors(backend, "with-all").await;
}

/// Without it commits wait, and nothing that was answered is on one machine alone.
async fn the_standby_is_lost(production: &mut Production, backend: &Producer) {
    production.standby.stop().await;
    let order = || placed(&[("Soup", 500, 1)]);
    let reply = backend.send_as("waits", "order.waits.place", order()).await;
    assert_eq!(reply.status, 503, "{}", reply.body());
    production.standby.restart().await.expect("it comes back");
    production.until_synchronous().await;
    let reply = backend.send_until_decided("waits", "order.waits.place", order()).await;
    assert_eq!(reply.status, 201, "{}", reply.body());
}

async fn a_tenants_credential_is_rotated(
    production: &Production,
    first: &(String, String),
) -> (String, String) {
    let former = producer(production, first).await;
    let rotate = "tenants rotate demo --accounts /etc/nats/accounts --json";
    let next = credential(&production.json(rotate).await, "demo-backend-2");
    production.push_accounts().await;
    both_doors(&former, "former").await;
    both_doors(&producer(production, &next).await, "next").await;
    let finish = "tenants rotate demo --finish --accounts /etc/nats/accounts";
    assert!(production.operate(finish).await.status.success());
    production.push_accounts().await;
    assert!(production.connect(&first.0, &first.1).await.is_err());
    next
}

/// The lines of the page, in Rust: the worker's file, the accounts, the server.
async fn passwords_of_a_worker_are_rotated(
    production: &Production,
    edge: &Process,
    tenant: &(String, String),
) {
    let url = production.path("/etc/brigade/edge/nats-url");
    let before = fs::read_to_string(&url).expect("a URL");
    let (_, rest) = before.split_once("edge:").expect("a user");
    let (old, new) = (rest.split('@').next().expect("a password"), "p0fa11");
    for file in [url, production.path("/etc/nats/accounts/fleet.conf")] {
        let text = fs::read_to_string(&file).expect("the file");
        assert!(text.contains(old), "{text}");
        fs::write(&file, text.replace(old, new)).expect("written");
    }
    let back = || logged(edge, ["dependency back", "\"nats\""]);
    let connected = back();
    let sync = "tenants sync --accounts /etc/nats/accounts";
    assert!(production.operate(sync).await.status.success());
    production.push_accounts().await;
    until("edge to be back", || async { (back() > connected).then_some(()) }).await;
    assert!(production.connect("edge", old).await.is_err());
    assert!(production.connect("edge", new).await.is_ok());
    both_doors(&producer(production, tenant).await, "nats-password").await;

    let worker = WorkerName::Edge;
    production.write_database_url(worker, "deadbeef");
    production.change_password_of_pgbouncer(worker, "deadbeef");
    assert!(production.operate("migrate").await.status.success());
    edge.until_logged(&["the login to Postgres has changed"]).await;
    both_doors(&producer(production, tenant).await, "database-password").await;
    let refused = production.primary.url(worker.as_str(), PASSWORD, "brigade");
    let refused = sqlx::PgPool::connect(&format!("{refused}?sslmode=require")).await;
    assert!(refused.unwrap_err().to_string().contains("authentication"));
}

/// One that has expired is seen by the next connection, and one in its place too.
async fn a_certificate_is_renewed(production: &Production, (user, password): &(String, String)) {
    let url = production.nats_url(user, password);
    let node = url.split(',').next().expect("a node").to_owned();
    let connected = production.connect_to(&node).await.expect("connected");
    production.renew_certificate(0, true).await;
    let refused = production.connect_to(&node).await.unwrap_err();
    assert!(format!("{refused:?}").contains("xpired"), "{refused:?}");
    production.renew_certificate(0, false).await;
    production.connect_to(&node).await.expect("connected again");
    // Nobody was disconnected.
    assert_eq!(connected.statistics().connects.load(std::sync::atomic::Ordering::SeqCst), 1);
}

/// What was answered is there.
async fn the_primary_is_lost(production: &mut Production, tenant: &(String, String)) {
    let backend = producer(production, tenant).await;
    let order = || placed(&[("Soup", 500, 1)]);
    for n in 0..20 {
        assert_eq!(backend.send(&format!("order.kept-{n}.place"), order()).await.status, 201);
    }
    production.fail_over().await;
    for n in 0..20 {
        let query = format!("q.demo.view.order.kept-{n}");
        let view = until("an answer", || async {
            let view = backend.request(&query, &[], b"").await?;
            (view.status != 503).then_some(view)
        });
        let view = view.await;
        assert_eq!(view.status, 200, "{n}: {}", view.body());
    }
    both_doors(&backend, "last").await;
}
