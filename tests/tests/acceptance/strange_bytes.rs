//! Bytes that no client library sends: each message gets its answer or its dead letter, and costs
//! nobody else a connection, a place or an attempt.

use brigade::fleet::FleetMetrics;
use std::time::{Duration, Instant};

use async_nats::jetstream;
use brigade::{
    operations::dead_letters::{DeadLetters, Filter, Letter},
    runtime::ConsumeMetrics,
};
use brigade_contracts::WorkerName;
use brigade_tests::{
    Producer, RawClient, SUPERUSER, TestFleet, check, raw_client::RawMessage, until,
};
use serde_json::{Value, json};

/// Longest time of a good command while others send anything. It takes milliseconds; the limit
/// tells a fleet that works from one that is stuck.
const SOON: Duration = Duration::from_secs(10);

/// Header blocks that cannot be read.
fn blocks() -> Vec<(&'static str, Vec<u8>)> {
    let block = |lines: &[u8]| [b"NATS/1.0\r\n", lines, b"\r\n\r\n"].concat();
    let long = [b"Command-Id: k\r\nX".as_slice(), &vec![b'x'; 60_000]].concat();
    vec![
        ("a lone CR in a value", block(b"Command-Id: a\rb")),
        ("a lone LF in a value", block(b"Command-Id: a\nb")),
        ("a lone CR in a name", block(b"Command\r-Id: a")),
        ("no colon", block(b"Command-Id: k\r\nnonsense")),
        ("a value beyond UTF-8", block(b"Command-Id: \xff")),
        ("a name beyond UTF-8", block(b"Command-Id: k\r\n\xff\xfe: a")),
        ("a name beyond ASCII", block("Command-Id: k\r\nGr\u{fc}n: a".as_bytes())),
        ("a name with a space", block(b"Command-Id : k")),
        ("a name with a NUL", block(b"Command-Id: k\r\nA\0: b")),
        ("an empty name", block(b"Command-Id: k\r\n: a")),
        ("a folded value", block(b"Command-Id: k\r\nX: a\r\n b")),
        ("an empty line in between", block(b"Command-Id: k\r\n\r\nX: a")),
        ("a status", b"NATS/1.0 503\r\nCommand-Id: k\r\n\r\n".to_vec()),
        ("a status of a pull", b"NATS/1.0 408 Request Timeout\r\n\r\n".to_vec()),
        ("a status that is none", b"NATS/1.0 xyz\r\nCommand-Id: k\r\n\r\n".to_vec()),
        ("another version", b"NATS/9.9\r\nCommand-Id: k\r\n\r\n".to_vec()),
        ("no version", b"Command-Id: k\r\n\r\n".to_vec()),
        ("no end", b"NATS/1.0\r\nCommand-Id: k".to_vec()),
        ("half an end", b"NATS/1.0\r\nCommand-Id: k\r\n".to_vec()),
        ("one byte", b"\0".to_vec()),
        ("random bytes", (0..=255).collect()),
        ("60 KB", block(&long)),
    ]
}

/// Parts of subjects that are no tokens.
fn ids() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("\\xff", b"\xff".to_vec()),
        ("half a character", b"a\xc3".to_vec()),
        ("a NUL", b"a\0b".to_vec()),
        ("an escape", b"\x1b[2J".to_vec()),
        ("a vertical tab", b"a\x0bb".to_vec()),
        ("a space beyond ASCII", "a\u{a0}b\u{2003}c".as_bytes().to_vec()),
        ("letters beyond ASCII", "\u{fc}".as_bytes().to_vec()),
        ("a backslash", b"\\xff".to_vec()),
        ("quotes", b"'\"--".to_vec()),
        ("a long one", vec![b'x'; 1000]),
    ]
}

/// Payloads that are no commands, each with the code of its answer.
fn payloads() -> Vec<(&'static str, Vec<u8>, (&'static str, &'static str))> {
    let deep = [vec![b'['; 20_000], vec![b']'; 20_000]].concat();
    vec![
        ("nothing", Vec::new(), ("400", "malformed")),
        ("random bytes", (0..=255).collect(), ("400", "malformed")),
        ("line ends", b"\r\n\r\nPING\r\n".to_vec(), ("400", "malformed")),
        ("depth", deep, ("400", "malformed")),
        ("70 KB", vec![b' '; 70_000], ("413", "payload_too_large")),
    ]
}

/// Reply subjects that are no inbox. (The server itself refuses those like its own, `_R_.…`.)
fn replies() -> Vec<&'static [u8]> {
    vec![
        b"_INBOX.",
        b"_INBOX",
        b"_INBOX.a..b",
        b"_INBOX.a.",
        b"_INBOX.\xff",
        b"_INBOX.a\0",
        b"_INBOX.\xc2\xa0",
        b"\xff",
        b"$KV.views.t2.cart.c9.core",
        b"$JS.API.STREAM.PURGE.EVENTS",
        b"evt.t2.order.o1.paid",
        b"outcome.t2.k1",
        b"outbox.wake",
    ]
}

/// Returns a header block with a Command-Id.
fn named(id: &str) -> Vec<u8> {
    format!("NATS/1.0\r\nCommand-Id: {id}\r\n\r\n").into_bytes()
}

fn subject(parts: [&[u8]; 3]) -> Vec<u8> {
    parts.concat()
}

#[track_caller]
fn refused(answer: &RawMessage, (status, code): (&str, &str), what: &str) {
    assert_eq!(
        (answer.header("Brigade-Status").as_str(), &*answer.code()),
        (status, code),
        "{what}"
    );
}

/// Returns the sequence number of a PubAck.
async fn store(raw: &mut RawClient, subject: &[u8], headers: &[u8], payload: &[u8]) -> u64 {
    let answer = raw.request(subject, headers, payload).await;
    let ack: Value = serde_json::from_slice(&answer.payload).expect("a PubAck");
    ack["seq"].as_u64().unwrap_or_else(|| panic!("{}: {ack}", subject.escape_ascii()))
}

async fn desk(fleet: &TestFleet) -> DeadLetters {
    let js = jetstream::new(fleet.connect("operator").await);
    DeadLetters::open(js, fleet.sql.clone()).await.unwrap()
}

/// Returns the dead letter of a message of `COMMANDS`.
async fn letter(fleet: &TestFleet, sequence: u64, what: &str) -> Letter {
    until(&format!("the dead letter of {what}"), || async {
        let letters = desk(fleet).await.list(&Filter::default()).await.unwrap();
        let of_this =
            |letter: &Letter| letter.headers.get("Origin-Seq").map(|v| v.as_str().parse());
        letters.into_iter().find(|letter| of_this(letter) == Some(Ok(sequence)))
    })
    .await
}

/// Returns the stored outcome of a command of `t1`.
async fn outcome(producer: &mut RawClient, id: &str) -> (String, String) {
    let asked = format!("q.t1.outcome.{id}");
    let answer =
        producer.request(asked.as_bytes(), b"NATS/1.0\r\nWait-Ms: 20000\r\n\r\n", b"").await;
    let outcome: Value = serde_json::from_slice(&answer.payload).unwrap_or_default();
    (outcome["status"].to_string(), outcome["code"].as_str().unwrap_or_default().to_owned())
}

/// Checks that every worker is ready and none was restarted.
async fn all_well(fleet: &TestFleet) {
    let ready = until("all workers to be ready", || async {
        let response = reqwest::get(format!("{}/readyz", fleet.admin_url().await)).await.ok()?;
        let text = response.error_for_status().ok()?.text().await.ok()?;
        Some(text)
    });
    ready.await;
    for worker in WorkerName::ALL {
        let restarts = fleet
            .metrics
            .group::<FleetMetrics>()
            .restarts
            .with_label_values(&[worker.as_str()])
            .get();
        assert_eq!(restarts, 0, "{worker} was started again");
    }
}

/// Sent within the fleet's own account: the server rewrites header blocks that leave a tenant's.
#[tokio::test]
async fn s5_01_any_bytes_are_answered_or_buried() {
    let fleet = TestFleet::start().await;
    let mut producer = RawClient::connect(&fleet.nats_url(SUPERUSER)).await;
    let mut watcher = RawClient::connect(&fleet.nats_url(SUPERUSER)).await;
    let open = br#"{"kind":"team","owner":"ada","currency":"EUR"}"#;
    let bad_header = ("400", "bad_header");
    for (name, block) in blocks() {
        for door in ["req.t1.cart.c1.open", "q.t1.view.cart.c1", "cmd.t1.user.u1.login"] {
            let answer = producer.request(door.as_bytes(), &block, open).await;
            refused(&answer, bad_header, &format!("{name} on {door}"));
        }
        let answer = watcher.request(b"q.t1.active_orders", &block, b"").await;
        refused(&answer, bad_header, name);

        let stored = store(&mut producer, b"cmd.t1.cart.c1.open", &block, open).await;
        if name.starts_with("a status") {
            // JetStream itself takes the status away, and hands on the rest.
            continue;
        }
        let letter = letter(&fleet, stored, name).await;
        assert!(letter.reason.starts_with("bad_header"), "{name}: {}", letter.reason);
        assert_eq!(letter.subject, "cmd.t1.cart.c1.open");
        let header = |name: &str| letter.headers.get(name).map(|value| value.as_str().to_owned());
        let payload = desk(&fleet).await.payload(letter.number).await.unwrap();
        if let Some(length) = header("Dead-Raw-Headers-In-Payload") {
            assert_eq!(length.parse(), Ok(block.len()), "{name}");
            assert_eq!(payload, [block.as_slice(), open].concat(), "{name}");
        } else {
            let kept = header("Dead-Raw-Headers").expect(name);
            assert_eq!(base64(&block), kept, "{name}");
            assert_eq!(&payload[..], open, "{name}");
        }
        let replayed = desk(&fleet).await.replay(&letter, "op").await.unwrap_err();
        assert!(replayed.to_string().contains("Dead-Raw-Headers"), "{name}: {replayed}");
    }
    assert_eq!(outcome(&mut producer, "k").await, ("201".to_owned(), "created".to_owned()));
    let bad_subject = ("400", "bad_subject");
    for (at, (name, id)) in ids().into_iter().enumerate() {
        let on_request = subject([b"req.t1.cart.", &id, b".open"]);
        let answer = producer.request(&on_request, &named(&format!("r{at}")), open).await;
        refused(&answer, bad_subject, name);
        let login = subject([b"cmd.t1.user.", &id, b".login"]);
        let answer = producer.request(&login, &named("k"), open).await;
        refused(&answer, ("400", "secret_on_durable_door"), name);
        let view = subject([b"q.t1.view.cart.", &id, b""]);
        for raw in [&mut producer, &mut watcher] {
            refused(&raw.request(&view, b"", b"").await, bad_subject, name);
        }

        let stored = subject([b"cmd.t1.cart.", &id, b".open"]);
        let command = format!("d{at}");
        store(&mut producer, &stored, &named(&command), open).await;
        let decided = outcome(&mut producer, &command).await;
        assert_eq!((&*decided.0, &*decided.1), bad_subject, "{name}");
        // Nobody can be told: it has no Command-Id.
        let stored = store(&mut producer, &stored, b"", open).await;
        let letter = letter(&fleet, stored, name).await;
        let kept = letter.headers.get("Dead-Raw-Subject").map(|value| value.as_str().to_owned());
        let on_stream = subject([b"cmd.t1.cart.", &id, b".open"]);
        let is_text = id.iter().all(|byte| byte.is_ascii_graphic() && *byte != b'\\');
        assert_eq!(kept, (!is_text).then(|| base64(&on_stream)), "{name}");
    }
    for (at, (name, payload, expected)) in payloads().into_iter().enumerate() {
        let (on_request, stored) = (format!("pr{at}"), format!("pd{at}"));
        let answer = producer.request(b"req.t1.cart.c1.open", &named(&on_request), &payload).await;
        refused(&answer, expected, name);
        store(&mut producer, b"cmd.t1.cart.c1.open", &named(&stored), &payload).await;
        let decided = outcome(&mut producer, &stored).await;
        assert_eq!((&*decided.0, &*decided.1), expected, "{name}");
        let answer = producer.request(b"cmd.t1.user.u1.login", &named("k"), &payload).await;
        refused(&answer, ("400", "secret_on_durable_door"), name);
        let answer = watcher.request(b"q.t1.view.cart.c0", b"", &payload).await;
        assert_eq!(answer.header("Brigade-Status"), "404", "{name}");
    }
    all_well(&fleet).await;
    fleet.until_idle().await;
    check::kv_equals_sql(&fleet).await;
}

/// However the server rewrites a header block between accounts, every subject that the tenant's
/// credentials may publish is answered, and nothing stays in hand.
#[tokio::test]
async fn s5_01_any_bytes_of_a_tenant_are_answered() {
    let fleet = TestFleet::start().await;
    let mut producer = RawClient::connect(&fleet.nats_url("t1-producer")).await;
    let mut watcher = RawClient::connect(&fleet.nats_url("t1-watcher")).await;
    let open = br#"{"kind":"team","owner":"ada","currency":"EUR"}"#;
    for (name, block) in blocks() {
        for door in ["req.t1.cart.c1.open", "q.t1.view.cart.c1", "cmd.t1.user.u1.login"] {
            let answer = producer.request(door.as_bytes(), &block, open).await;
            let status = answer.header("Brigade-Status");
            assert!(["400", "404", "201", "200"].contains(&&*status), "{name} on {door}: {status}");
        }
        let answer = watcher.request(b"q.t1.active_orders", &block, b"").await;
        assert!(["400", "200"].contains(&&*answer.header("Brigade-Status")), "{name}");
        store(&mut producer, b"cmd.t1.cart.c1.open", &block, open).await;
    }
    for (at, (name, id)) in ids().into_iter().enumerate() {
        for (door, end) in [("req.t1.cart.", ".open"), ("q.t1.view.cart.", "")] {
            let subject = subject([door.as_bytes(), &id, end.as_bytes()]);
            let answer = producer.request(&subject, &named(&format!("s{at}")), open).await;
            refused(&answer, ("400", "bad_subject"), name);
        }
    }
    all_well(&fleet).await;
    fleet.until_idle().await;
    check::kv_equals_sql(&fleet).await;
}

fn base64(bytes: &[u8]) -> String {
    use base64::{Engine, prelude::BASE64_STANDARD};
    BASE64_STANDARD.encode(bytes)
}

/// Sends every malformed message in a loop, twenty a second and more, without waiting.
async fn repeat_all(producer: String, watcher: String) {
    let (mut producer, mut watcher) =
        (RawClient::connect(&producer).await, RawClient::connect(&watcher).await);
    let mut pace = tokio::time::interval(Duration::from_millis(50));
    loop {
        for (_, block) in blocks() {
            pace.tick().await;
            for door in ["req.t1.cart.c1.open", "cmd.t1.cart.c1.open", "cmd.t1.user.u1.login"] {
                producer.publish(door.as_bytes(), b"_INBOX.nobody", &block, b"{}").await;
            }
            watcher.publish(b"q.t1.view.cart.c1", b"_INBOX.nobody", &block, b"").await;
        }
        for (_, id) in ids() {
            pace.tick().await;
            for (door, end) in [("req.t1.cart.", ".open"), ("cmd.t1.cart.", ".open")] {
                let subject = subject([door.as_bytes(), &id, end.as_bytes()]);
                producer.publish(&subject, b"_INBOX.nobody", b"", b"{}").await;
            }
            let view = subject([b"q.t1.view.cart.", &id, b""]);
            watcher.publish(&view, b"_INBOX.nobody", b"", b"").await;
        }
    }
}

#[tokio::test]
async fn s5_01_good_commands_are_decided_while_strange_ones_are_repeated() {
    let fleet = TestFleet::start().await;
    let strange =
        tokio::spawn(repeat_all(fleet.nats_url("t1-producer"), fleet.nats_url("t1-watcher")));
    let good = Producer::new(fleet.connect("t2-producer").await, "t2");
    let mut longest = Duration::ZERO;
    for at in 0..100 {
        let open = json!({"kind": "team", "owner": format!("ada{at}"), "currency": "EUR"});
        let asked = Instant::now();
        let what = format!("cart.r{at}.open");
        assert_eq!(good.send(&what, open.clone()).await.status, 201);
        longest = longest.max(asked.elapsed());
        let asked = Instant::now();
        let outcome = good.publish(&format!("d{at}"), &format!("cart.d{at}.open"), open).await;
        assert_eq!(outcome["status"], 201);
        longest = longest.max(asked.elapsed());
        assert_eq!(good.view(&format!("cart.d{at}"), None).await.status, 200);
    }
    eprintln!("the longest of 200 good commands took {longest:?}");
    assert!(longest < SOON, "{longest:?}");
    assert!(!strange.is_finished(), "the strange ones were sent all the time");
    strange.abort();
    all_well(&fleet).await;
    fleet.until_idle().await;
    check::kv_equals_sql(&fleet).await;
}

#[tokio::test]
async fn s5_02_only_a_well_formed_inbox_is_answered() {
    let fleet = TestFleet::start().await;
    let mut all = RawClient::connect(&fleet.nats_url(SUPERUSER)).await;
    let mut producer = RawClient::connect(&fleet.nats_url("t1-producer")).await;
    let doors = ["req.t1.cart.c1.join", "cmd.t1.user.u1.login", "q.t1.view.cart.c1"];
    let handled = fleet
        .metrics
        .group::<ConsumeMetrics>()
        .verdicts
        .with_label_values(&["command-handler", "done"]);
    let answered = fleet.edge_metrics().queries.with_label_values(&["view", "404"]);
    let (handled_before, answered_before) = (handled.get(), answered.get());
    for reply in replies() {
        all.subscribe(reply).await;
    }
    all.flush().await;
    for reply in replies() {
        for door in doors {
            producer.publish(door.as_bytes(), reply, &named("k"), b"{\"user\":\"eve\"}").await;
        }
    }
    let sent = replies().len() as u64;
    until("all of them to be dealt with", || async {
        let all =
            handled.get() - handled_before == 2 * sent && answered.get() - answered_before == sent;
        all.then_some(())
    })
    .await;
    // What was published to one of them came before this.
    producer.request(b"q.t1.view.cart.c1", b"", b"").await;
    fleet.until_idle().await;
    assert!(all.flush().await.is_empty(), "an answer went where it must not");
    all_well(&fleet).await;
    fleet.finish().await;
}

/// The client library still reads the answers to workers. Should it die of one, its worker notices
/// and restarts.
#[tokio::test]
async fn s5_01_a_client_whose_task_dies_is_replaced() {
    let fleet = TestFleet::start().await;
    let mut all = RawClient::connect(&fleet.nats_url(SUPERUSER)).await;
    let restarts =
        fleet.metrics.group::<FleetMetrics>().restarts.with_label_values(&["command-handler"]);
    // Where command-handler is told that a key is stored.
    all.subscribe(b"$KV.versions.>").await;
    all.flush().await;
    let good = fleet.producer().await;
    let open = json!({"kind": "team", "owner": "ada", "currency": "EUR"});
    assert_eq!(good.send("cart.c1.open", open.clone()).await.status, 201);
    let reply = all.next().await.reply;
    assert!(reply.starts_with(b"_INBOX.command-handler."), "{}", reply.escape_ascii());
    all.publish(&reply, b"", b"NATS/1.0\r\nX: a\rb\r\n\r\n", b"").await;
    until("command-handler to begin anew", || async { (restarts.get() == 1).then_some(()) }).await;
    let decided = good.send_until_decided("k2", "cart.c2.open", open).await;
    assert_eq!(decided.status, 201);
    fleet.finish().await;
}
