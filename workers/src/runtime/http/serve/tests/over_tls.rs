//! The same server with a certificate.

use std::path::Path;

use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{
        ClientConfig, RootCertStore,
        pki_types::{CertificateDer, ServerName, pem::PemObject},
    },
};

use super::*;
use crate::{
    runtime::http::TlsFiles,
    testing::{
        tls::{Authority, Certificate},
        until,
    },
};

fn serve_https(
    limits: ConnectionLimits,
    files: &Certificate,
) -> (HttpServer, UnboundedReceiver<()>, CancellationToken) {
    let files = TlsFiles { certificate: files.certificate.clone(), key: files.key.clone() };
    start_with(limits, Some(HttpTls::open(files).expect("a certificate")))
}

/// Connects as somebody who trusts this authority alone.
async fn connect(server: &HttpServer, authority: &Path) -> io::Result<TlsStream<TcpStream>> {
    connect_with(server, authority, &[]).await
}

/// The same, and offers these protocols.
async fn connect_with(
    server: &HttpServer,
    authority: &Path,
    protocols: &[&str],
) -> io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(authority).expect("PEM")).expect("a certificate");
    let mut config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
    let name = ServerName::try_from("127.0.0.1").expect("a name");
    let stream = TcpStream::connect(server.address).await?;
    TlsConnector::from(Arc::new(config)).connect(name, stream).await
}

async fn answer(stream: &mut TlsStream<TcpStream>) -> String {
    stream.write_all(REQUEST.as_bytes()).await.expect("sent");
    let mut answer = Vec::new();
    while !answer.ends_with(b"done") {
        assert_ne!(stream.read_buf(&mut answer).await.expect("connected"), 0);
    }
    String::from_utf8(answer).expect("text")
}

#[tokio::test]
async fn a_client_chooses_between_both_protocols() {
    let (dir, authority) = (tempfile::tempdir().unwrap(), Authority::new());
    let files = authority.issue(dir.path(), "https", "127.0.0.1", false);
    let (server, ..) = serve_https(LIMITS, &files);
    for (offered, chosen) in
        [(vec!["h2", "http/1.1"], Some("h2")), (vec!["http/1.1"], Some("http/1.1")), (vec![], None)]
    {
        let stream = connect_with(&server, &files.authority, &offered).await.expect("trusted");
        let negotiated = stream.get_ref().1.alpn_protocol();
        assert_eq!(negotiated, chosen.map(str::as_bytes), "{offered:?}");
    }
    let stream = connect_with(&server, &files.authority, &["h2"]).await.expect("trusted");
    let io = hyper_util::rt::TokioIo::new(stream);
    let shaken = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await;
    let (mut client, connection) = shaken.expect("HTTP/2");
    tokio::spawn(connection);
    let request = axum::http::Request::get("https://127.0.0.1/quick");
    let request = request.body(axum::body::Body::empty()).expect("a request");
    assert_eq!(client.send_request(request).await.expect("answered").status(), 200);
}

#[tokio::test]
async fn a_certificate_that_changes_is_shown_to_the_next_connection() {
    let (dir, authority) = (tempfile::tempdir().unwrap(), Authority::new());
    let files = authority.issue(dir.path(), "https", "127.0.0.1", false);
    let (server, ..) = serve_https(LIMITS, &files);
    let mut held = connect(&server, &files.authority).await.expect("trusted");
    assert!(answer(&mut held).await.starts_with("HTTP/1.1 200"));
    // Nobody is answered in clear text.
    let mut plain = Peer::connect(&server).await;
    plain.send(REQUEST).await;
    assert!(!plain.rest().await.starts_with(b"HTTP"));
    // A key of another certificate changes nothing.
    let other = Authority::new();
    let elsewhere = tempfile::tempdir().unwrap();
    let new = other.issue(elsewhere.path(), "https", "127.0.0.1", false);
    std::fs::copy(&new.key, &files.key).unwrap();
    connect(&server, &files.authority).await.expect("still trusted");
    std::fs::copy(&new.certificate, &files.certificate).unwrap();
    until("the other certificate", || async {
        connect(&server, &new.authority).await.ok().map(drop)
    })
    .await;
    assert!(connect(&server, &files.authority).await.is_err());
    // What was connected goes on.
    assert!(answer(&mut held).await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn a_handshake_that_stalls_ends_and_leaves_its_place() {
    let (dir, authority) = (tempfile::tempdir().unwrap(), Authority::new());
    let files = authority.issue(dir.path(), "https", "127.0.0.1", false);
    let one = ConnectionLimits { connections: 1, ..LIMITS };
    let (server, ..) = serve_https(one, &files);
    // The first bytes of a handshake, and no more; or none at all.
    for first in ["\u{16}\u{3}\u{1}", ""] {
        let mut stalled = Peer::connect(&server).await;
        stalled.send(first).await;
        pause();
        let started = Instant::now();
        assert_eq!(stalled.rest().await, b"");
        let took = started.elapsed();
        resume();
        assert!(took < one.first_head_within + Duration::from_secs(1), "{took:?}");
        // The only place is free again.
        let mut next = connect(&server, &files.authority).await.expect("connected");
        answer(&mut next).await;
    }
    // Nor does one that stalls hold up the end of the server.
    let mut stalled = Peer::connect(&server).await;
    stalled.send("\u{16}").await;
    server.stop().await;
    assert_eq!(stalled.rest().await, b"");
}
