//! Both connections of a worker on real servers: what they show, and whom they believe.

use std::{
    fs,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use anyhow::Result;
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use brigade_contracts::WorkerName;
use brigade_servers::{NatsServer, process::signal_pid};
use nkeys::KeyPair;
use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    task::JoinHandle,
    time::Instant,
};

use super::{Nats, NatsCredentials, NatsOptions, ServerErrors};
use crate::{
    infra::{Health, Intake, Metrics, intake::IntakeKind},
    testing::{
        PATIENCE, nats_server,
        tls::{Authority, BEGIN_TLS, Certificate, nats_configuration},
        until,
    },
};

/// Both connections of edge.
struct Connected {
    nats: Nats,
    intake: Intake,
    /// That of either: a worker's own names one dependency only.
    healths: [Health; 2],
}

async fn connect(url: &str, options: &NatsOptions) -> Result<Connected> {
    let healths = [Health::new(WorkerName::Edge), Health::new(WorkerName::Edge)];
    let metrics = Arc::new(Metrics::new());
    let nats = Nats::connect_with(url, options, &healths[0], &metrics).await?;
    let errors = ServerErrors::new(&healths[1], &metrics, "edge");
    let credentials = nats.credentials.clone();
    let intake = Intake::open(IntakeKind::Stored, credentials, healths[1].clone(), errors);
    Ok(Connected { nats, intake, healths })
}

impl Connected {
    async fn until_both(&self) {
        let intake = self.intake.connections();
        until("both connections", || async {
            (self.nats.connections() > 0 && *intake.borrow() > 0).then_some(())
        })
        .await;
    }

    /// Waits until both connections are refused for one of these reasons.
    async fn until_refused(&self, reasons: &[&str]) {
        for health in &self.healths {
            let last = Mutex::new(String::new());
            let refused = until("a refusal", || async {
                let why = health.ready().unwrap_err();
                let is_it = reasons.iter().any(|reason| why.contains(reason));
                *last.lock().unwrap() = why;
                is_it.then_some(())
            });
            let refused = tokio::time::timeout(PATIENCE / 2, refused).await;
            assert!(refused.is_ok(), "{reasons:?}: {}", last.lock().unwrap());
        }
    }
}

fn edge() -> NatsOptions {
    NatsOptions { user: Some("edge".to_owned()), ..NatsOptions::default() }
}

fn url(scheme: &str, server: &NatsServer) -> String {
    format!("{scheme}://127.0.0.1:{}", server.port())
}

/// Starts a server whose clients have to show a certificate of this authority.
async fn tls_server(authority: &Authority, more: &str) -> Result<(NatsServer, TempDir)> {
    let (mut server, dir) = nats_server(&format!("{USERS}{BEGIN_TLS}")).await?;
    authority.certify(dir.path(), false);
    configure(&dir, USERS, more)?;
    server.restart().await?;
    Ok((server, dir))
}

/// Gives a server this configuration and TLS, for its next start.
fn configure(dir: &TempDir, users: &str, more: &str) -> Result<()> {
    let file = dir.path().join("nats-server.conf");
    let text = fs::read_to_string(&file)?;
    let at = text.find(USERS).expect("its users");
    fs::write(file, format!("{}{users}{}", &text[..at], nats_configuration(more)))?;
    Ok(())
}

const USERS: &str = "authorization { users: [{ user: edge, password: e }] }\n";

#[tokio::test]
async fn a_client_certificate_and_an_authority_of_ones_own_are_used() -> Result<()> {
    let authority = Authority::new();
    let (server, dir) = tls_server(&authority, "verify: true").await?;
    let files = authority.certify_client(dir.path());
    let url = format!("nats://edge:e@127.0.0.1:{}", server.port());
    connect(&url, &files.nats_options()).await?.until_both().await;

    // Neither without a certificate, nor with one of somebody else.
    let without = NatsOptions { certificate: None, ..files.nats_options() };
    connect(&url, &without).await?.until_refused(&["CertificateRequired"]).await;
    let elsewhere = tempfile::tempdir()?;
    let foreign = Authority::new().certify_client(elsewhere.path());
    let shows_foreign = Certificate { authority: files.authority.clone(), ..foreign.clone() };
    let refused = connect(&url, &shows_foreign.nats_options()).await?;
    refused.until_refused(&["alert", "closed", "reset", "roken pipe"]).await;
    // Nor is a server believed that somebody else vouches for.
    let believes_foreign = Certificate { authority: foreign.authority, ..files };
    let refused = connect(&url, &believes_foreign.nats_options()).await?;
    refused.until_refused(&["UnknownIssuer"]).await;
    Ok(())
}

#[tokio::test]
async fn a_certificate_may_be_the_whole_login() -> Result<()> {
    let authority = Authority::new();
    let (mut server, dir) = tls_server(&authority, "verify: true").await?;
    configure(&dir, "authorization { users: [{ user: edge.fleet }] }\n", "verify_and_map: true")?;
    server.restart().await?;
    let files = authority.issue(dir.path(), "edge", "edge.fleet", false);
    let options = NatsOptions { user: edge().user, ..files.nats_options() };
    let connected = connect(&url("tls", &server), &options).await?;
    connected.until_both().await;
    let user: Value = whoami(&connected.nats).await?;
    assert_eq!(user["data"]["user"], "edge.fleet", "{user}");
    Ok(())
}

async fn whoami(nats: &Nats) -> Result<Value> {
    let answer = nats.client.request("$SYS.REQ.USER.INFO", "".into()).await?;
    Ok(serde_json::from_slice(&answer.payload)?)
}

#[tokio::test]
async fn tls_begins_before_the_server_speaks_if_it_has_to() -> Result<()> {
    let authority = Authority::new();
    let (server, dir) = tls_server(&authority, "").await?;
    // By a reload: whoever starts it waits for it to speak.
    configure(&dir, USERS, "handshake_first: true")?;
    signal_pid(server.pid(), Signal::HUP);
    let files = authority.certify_client(dir.path());
    let url = format!("tls://edge:e@127.0.0.1:{}", server.port());
    let options = NatsOptions { tls_first: true, ..files.nats_options() };
    connect(&url, &options).await?.until_both().await;
    let waits = connect(&url, &files.nats_options()).await?;
    waits.until_refused(&["handshake_first", "expected INFO", "timed out"]).await;
    Ok(())
}

/// Writes a file that only its owner reads.
fn written(dir: &Path, name: &str, text: &str) -> Result<std::path::PathBuf> {
    let path = dir.join(name);
    fs::write(&path, text)?;
    Ok(path)
}

#[tokio::test]
async fn an_nkey_logs_in() -> Result<()> {
    let key = KeyPair::new_user();
    let users = format!("authorization {{ users: [{{ nkey: {} }}] }}\n", key.public_key());
    let (server, dir) = nats_server(&users).await?;
    let seed = written(dir.path(), "edge.nk", &format!("{}\n", key.seed()?))?;
    let options = NatsOptions { nkey_seed: Some(seed), ..edge() };
    connect(&url("nats", &server), &options).await?.until_both().await;
    let other = written(dir.path(), "other.nk", &KeyPair::new_user().seed()?)?;
    let options = NatsOptions { nkey_seed: Some(other), ..edge() };
    let refused = connect(&url("nats", &server), &options).await?;
    refused.until_refused(&["uthorization"]).await;
    Ok(())
}

/// Signs claims as the tools of nats-server do.
fn jwt(issuer: &KeyPair, subject: &KeyPair, name: &str, nats: &Value) -> Result<String> {
    let encode = |value: Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
    let header = encode(json!({"typ": "JWT", "alg": "ed25519-nkey"}));
    let claims = encode(json!({
        "jti": name, "iat": 1_700_000_000, "iss": issuer.public_key(),
        "sub": subject.public_key(), "name": name, "nats": nats,
    }));
    let signed = format!("{header}.{claims}");
    let signature = BASE64_URL_SAFE_NO_PAD.encode(issuer.sign(signed.as_bytes())?);
    Ok(format!("{signed}.{signature}"))
}

/// Returns the configuration of a server that believes an operator, and the credentials of a user.
fn operator_mode() -> Result<(String, String)> {
    let (operator, account) = (KeyPair::new_operator(), KeyPair::new_account());
    let (system, user) = (KeyPair::new_account(), KeyPair::new_user());
    let of_operator = json!({"type": "operator", "version": 2,
                             "system_account": system.public_key()});
    let limits = json!({"subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1,
                        "wildcards": true, "conn": -1, "leaf": -1});
    let of_account = json!({"type": "account", "version": 2, "limits": limits});
    let of_user = json!({"type": "user", "version": 2, "subs": -1, "data": -1, "payload": -1,
                         "pub": {}, "sub": {}});
    let account_jwt = jwt(&operator, &account, "BRIGADE", &of_account)?;
    let system_jwt = jwt(&operator, &system, "SYS", &of_account)?;
    let configuration = format!(
        "operator: {}\nsystem_account: {}\nresolver: MEMORY\n\
         resolver_preload: {{ {}: {account_jwt}, {}: {system_jwt} }}\n",
        jwt(&operator, &operator, "operator", &of_operator)?,
        system.public_key(),
        account.public_key(),
        system.public_key(),
    );
    let creds = format!(
        "-----BEGIN NATS USER JWT-----\n{}\n------END NATS USER JWT------\n\n\
         ************************* IMPORTANT *************************\n\n\
         -----BEGIN USER NKEY SEED-----\n{}\n------END USER NKEY SEED------\n",
        jwt(&account, &user, "edge", &of_user)?,
        user.seed()?,
    );
    Ok((configuration, creds))
}

#[tokio::test]
async fn credentials_of_an_operator_log_in() -> Result<()> {
    let (configuration, creds) = operator_mode()?;
    let (server, dir) = nats_server(&configuration).await?;
    let file = written(dir.path(), "edge.creds", &creds)?;
    let options = NatsOptions { creds: Some(file.clone()), ..edge() };
    connect(&url("nats", &server), &options).await?.until_both().await;
    // The file is read for each connection, and a foreign one does not do.
    let (_, foreign) = operator_mode()?;
    fs::write(&file, foreign)?;
    let refused = connect(&url("nats", &server), &options).await?;
    refused.until_refused(&["uthorization"]).await;
    fs::write(&file, creds)?;
    refused.until_both().await;
    Ok(())
}

#[tokio::test]
async fn a_password_that_was_written_into_the_file_is_used_by_the_next_connection() -> Result<()> {
    let (mut server, dir) = nats_server(USERS).await?;
    let url = |password| format!("nats://edge:{password}@127.0.0.1:{}", server.port());
    let file = written(dir.path(), "url", &url("e"))?;
    let options = NatsOptions { url_file: Some(file.clone()), ..NatsOptions::default() };
    let connected = connect(&url("e"), &options).await?;
    connected.until_both().await;
    // What is connected stays, and the next connection has the new password.
    fs::write(&file, url("new"))?;
    connected.nats.client.flush().await?;
    assert_eq!(connected.nats.connections(), 1);
    let configuration = dir.path().join("nats-server.conf");
    let text = fs::read_to_string(&configuration)?.replace("password: e", "password: new");
    fs::write(configuration, text)?;
    server.restart().await?;
    let intake = connected.intake.connections();
    until("both to be connected again", || async {
        (connected.nats.connections() > 1 && *intake.borrow() > 1).then_some(())
    })
    .await;
    Ok(())
}

/// Answers so many attempts to log in with a refusal. Returns its port, and the time that they take.
async fn refuses(attempts: u32) -> Result<(u16, JoinHandle<Result<Duration>>)> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let port = listener.local_addr()?.port();
    let server = async move {
        let mut first = None;
        for _ in 0..attempts {
            let (mut stream, _) = listener.accept().await?;
            first.get_or_insert_with(Instant::now);
            stream.write_all(b"INFO {\"server_id\":\"x\",\"max_payload\":1024}\r\n").await?;
            let mut came = Vec::new();
            while !came.ends_with(b"PING\r\n") && stream.read_buf(&mut came).await? > 0 {}
            stream.write_all(b"-ERR 'Authorization Violation'\r\n").await?;
        }
        Ok(first.map(|first| first.elapsed()).unwrap_or_default())
    };
    Ok((port, tokio::spawn(server)))
}

/// The clock stands still while anything happens: only pauses pass.
#[tokio::test(start_paused = true)]
async fn who_is_refused_asks_less_and_less_often() -> Result<()> {
    let (health, metrics) = (Health::new(WorkerName::Edge), Arc::new(Metrics::new()));
    let at_least = Duration::from_millis(100 + 200 + 400 + 800 + 1600);
    let (port, library) = refuses(6).await?;
    let url = |port: u16| format!("nats://edge:old@127.0.0.1:{port}");
    let nats = Nats::connect_with(&url(port), &NatsOptions::default(), &health, &metrics).await?;
    let took = library.await??;
    assert!(took >= at_least, "{took:?}");
    let (port, intake) = refuses(6).await?;
    let options = NatsOptions::default();
    let credentials = Arc::new(NatsCredentials::parse(&url(port), "edge", &options)?);
    let errors = ServerErrors::new(&health, &metrics, "edge");
    let _intake = Intake::open(IntakeKind::Stored, credentials, health.clone(), errors);
    let took = intake.await??;
    assert!(took >= at_least, "{took:?}");
    drop(nats);
    Ok(())
}

#[test]
fn nothing_leaves_the_machine_in_clear_text_unless_somebody_says_so() {
    let parse = |url: &str, options: &NatsOptions| NatsCredentials::parse(url, "edge", options);
    let plain = NatsOptions::default();
    let ok = ["nats://e:e@127.0.0.1:4222", "nats://e:e@localhost", "nats://e:e@[::1]:4222"];
    for url in ok.into_iter().chain(["tls://e:e@nats.example", "tls://e:e@10.0.0.1,nats://b"]) {
        assert!(parse(url, &plain).is_ok(), "{url}");
    }
    for url in ["nats://e:e@10.0.0.1", "nats://e:e@127.0.0.1,nats://nats.internal", "e:e@nats"] {
        let error = parse(url, &plain).err().expect("refused").to_string();
        assert!(error.contains("tls://") && error.contains("BRIGADE_ALLOW_PLAINTEXT"), "{error}");
        let says_so = NatsOptions { allow_plaintext: true, ..plain.clone() };
        assert!(parse(url, &says_so).is_ok(), "{url}");
        let with_tls = NatsOptions { authority: Some("/ca.pem".into()), ..plain.clone() };
        assert!(parse(url, &with_tls).is_ok_and(|it| it.wants_tls()), "{url}");
    }
    // A server that another one tells of may be elsewhere.
    let local = parse(ok[0], &plain).expect("local");
    assert!(local.may_follow(&"127.0.0.1:4223".parse().expect("an address")));
    assert!(!local.may_follow(&"10.0.0.2:4222".parse().expect("an address")));
}
