//! More dead letters than their stream holds, of which an operator settles a part in between.

use std::{collections::HashSet, sync::Arc, time::Instant};

use async_nats::{HeaderMap, jetstream};
use brigade::{
    operations::dead_letters::{DeadLetters, Filter, Letter, Number},
    runtime::DeadLetterMetrics,
};
use brigade_tests::{Producer, SUPERUSER, TestFleet, check, producer::placed, until};
use bytes::Bytes;
use futures::{StreamExt, stream};
use rand::{RngCore, SeedableRng, rngs::StdRng};
use sha2::{Digest, Sha256};

use super::{Nice, beside, client, figure, held, quiet, second, size, until_count};
use crate::dead_letters::{desk, in_sql};

/// Bytes of all letters: twice as many as their stream holds.
const BYTES: usize = 2 * 1024 * 1024 * 1024;
/// The payload of one of them: an event that cannot be read.
const EVENT: usize = 600 * 1024;
/// Commands that die of a fault that is mended later.
const COMMANDS: usize = 40;
/// Letters that the operator drops in between.
const DROPPED: usize = 300;
/// The number of letters that SQL keeps whole of a tenant.
const WHOLE_BYTES: i64 = 64 * 1024 * 1024;

/// Lets a flooding client publish events that nobody can read, and waits until each is a dead
/// letter.
async fn unreadable_events(fleet: &Arc<TestFleet>, first: usize, count: usize) {
    let began = Instant::now();
    let published =
        client(fleet, Nice::Flood, move |fleet| publish_unreadable(fleet, first, count));
    let letters =
        fleet.metrics.group::<DeadLetterMetrics>().stored.with_label_values(&["payment-projector"]);
    let all = (first + count) as u64;
    let dead = until_count("dead letters", all, async || letters.get());
    tokio::join!(published, dead);
    // One that was delivered twice is counted twice, and stored once.
    until_count("the projector", 1, async || u64::from(check::all_consumed(fleet).await)).await;
    let (bytes, messages) = held(fleet, "DLQ").await;
    figure(&format!(
        "{count} letters of {} KiB in {:.0?}; DLQ: {messages} letters, {} MiB; in SQL: {}",
        EVENT >> 10,
        began.elapsed(),
        bytes >> 20,
        in_sql(fleet).await
    ));
}

/// Publishes events that nobody can read.
async fn publish_unreadable(fleet: Arc<TestFleet>, first: usize, count: usize) {
    let js = jetstream::new(fleet.connect(SUPERUSER).await);
    let mut noise = vec![0; EVENT];
    StdRng::seed_from_u64(7).fill_bytes(&mut noise);
    let published = stream::iter(first..first + count).map(|n| {
        let (js, mut event) = (js.clone(), noise.clone());
        event[..8].copy_from_slice(&n.to_be_bytes());
        let event = Bytes::from(event);
        async move {
            // A server that is busy with so many bytes may take longer than the client waits.
            until("a PubAck", async || {
                let mut headers = HeaderMap::new();
                headers.insert("Nats-Msg-Id", format!("unreadable{n}"));
                let event = event.clone();
                let sent = js.publish_with_headers("evt.t1.cart.opened.00", headers, event);
                let sent = sent.await.expect("sent").await;
                sent.inspect_err(|error| figure(&format!("event {n}: {error}"))).ok()
            })
            .await;
        }
    });
    published.buffer_unordered(8).collect::<()>().await;
}

/// Commands with long payloads, dead of a fault of the schema, which is gone when this returns.
async fn dead_commands(fleet: &TestFleet, producer: &Producer) {
    let fault = "alter table brigade.orders add constraint fault check (total < 0) not valid";
    sqlx::raw_sql(fault).execute(&fleet.sql).await.unwrap();
    let payload = format!("{:60000}", placed(&[("Soup", 500, 1)]).to_string());
    for n in 0..COMMANDS {
        producer.store(&format!("k{n}"), &format!("order.o{n}.place"), &payload).await;
    }
    let letters =
        fleet.metrics.group::<DeadLetterMetrics>().stored.with_label_values(&["command-handler"]);
    until_count("dead commands", COMMANDS as u64, async || letters.get()).await;
    let mended = "alter table brigade.orders drop constraint fault";
    sqlx::raw_sql(mended).execute(&fleet.sql).await.unwrap();
}

/// Does what an operator would do in the middle of it.
async fn operate(desk: &DeadLetters, producer: &Producer) {
    let began = Instant::now();
    let all = desk.list(&Filter::default()).await.unwrap();
    figure(&format!("{} letters are listed in {:.1?}", all.len(), began.elapsed()));
    let is_dead_order = |letter: &&Letter| letter.subject.starts_with("cmd.t1.order.");
    let commands: Vec<&Letter> = all.iter().filter(is_dead_order).collect();
    assert_eq!(commands.len(), COMMANDS);
    let began = Instant::now();
    for letter in commands {
        desk.replay(letter, "op1").await.unwrap();
    }
    for n in 0..COMMANDS {
        let query = format!("q.t1.outcome.k{n}");
        let outcome = producer.request(&query, &[("Wait-Ms", "20000")], b"").await.unwrap();
        assert_eq!(outcome.body()["status"], 201, "k{n}");
    }
    figure(&format!("{COMMANDS} commands were replayed and decided in {:.1?}", began.elapsed()));
    let began = Instant::now();
    let events = all.iter().filter(|letter| letter.worker == "payment-projector");
    for letter in events.take(DROPPED) {
        desk.drop(letter, "nobody can read it", "op1").await.unwrap();
    }
    figure(&format!("{DROPPED} letters were dropped in {:.1?}", began.elapsed()));
}

/// Asserts that every letter is there, and whole but for those that SQL may shorten.
async fn assert_nothing_is_lost(fleet: &TestFleet, desk: &DeadLetters, events: usize) {
    let archive = Filter { all: true, ..Filter::default() };
    let all = desk.list(&archive).await.unwrap();
    let of = |worker: &str| all.iter().filter(|l| l.worker == worker).collect::<Vec<_>>();
    let letters = of("payment-projector");
    let sent: HashSet<_> =
        letters.iter().map(|l| l.headers.get("Origin-Seq").unwrap().as_str()).collect();
    // A PubAck that was lost may leave a letter in both.
    assert_eq!(sent.len(), events, "of {} letters", letters.len());
    let settled = letters.iter().filter(|l| l.action.is_some()).count();
    assert_eq!(settled, DROPPED.min(events));
    assert!(of("command-handler").len() > COMMANDS);
    let shortened = letters.iter().filter(|l| l.payload_gone().is_some());
    assert!(shortened.clone().all(|l| matches!(l.number, Number::Table(_))));
    let whole: i64 = sqlx::query_scalar(
        "select coalesce(sum(octet_length(payload)), 0)::bigint from brigade.dead_letters",
    )
    .fetch_one(&fleet.sql)
    .await
    .unwrap();
    let at_once = i64::try_from(EVENT).unwrap() * 256;
    assert!(whole <= WHOLE_BYTES + at_once, "{whole} bytes in SQL");
    // They are shortened only where SQL is full.
    if shortened.clone().next().is_some() {
        assert!(whole > WHOLE_BYTES - at_once, "{whole} bytes in SQL");
    }
    let counts = "select count(*) from brigade.dead_letter_overflow";
    assert_eq!(sqlx::query_scalar::<_, i64>(counts).fetch_one(&fleet.sql).await.unwrap(), 0);
    for letter in letters.iter().filter(|l| l.payload_gone().is_none()).step_by(37) {
        let payload = desk.payload(letter.number).await.unwrap();
        let hash = letter.headers.get("Dead-Payload-Hash").unwrap().as_str();
        assert_eq!(hex::encode(Sha256::digest(&payload)), hash, "{}", letter.number);
    }
    figure(&format!(
        "{} letters of events: {settled} settled, {} without payload, {} MiB whole in SQL",
        letters.len(),
        shortened.count(),
        whole >> 20
    ));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes; run by hand: 2 GiB of dead letters"]
async fn s5_07_two_gib_of_dead_letters_pass_a_stream_of_one() {
    let events = size("BRIGADE_TEST_LETTER_BYTES", BYTES) / EVENT;
    let fleet = Arc::new(TestFleet::start().await);
    let producer = fleet.producer().await;
    dead_commands(&fleet, &producer).await;
    // A little more than the stream holds.
    let first = events * 53 / 100;
    let t2 = second(&fleet).await;
    let quiet = quiet(&fleet).await;
    let (times, ()) = beside(&fleet, "first", unreadable_events(&fleet, 0, first)).await;
    times.print("beside the letters that the stream holds");
    times.compare(&quiet);
    // Another tenant's letter is whole all the same, and its commands are decided.
    let js = jetstream::new(fleet.connect("t2-producer").await);
    js.publish("cmd.t2.cart.c1.open", "{}".into()).await.unwrap().await.unwrap();
    let outcome = t2.publish("k1", "cart.c1.open", super::open("ada")).await;
    assert_eq!(outcome["status"], 201);
    let letters =
        fleet.metrics.group::<DeadLetterMetrics>().stored.with_label_values(&["command-handler"]);
    until_count("the other's letter", COMMANDS as u64 + 1, async || letters.get()).await;
    let desk = desk(&fleet).await;
    let others = Filter { tenant: Some("t2".to_owned()), ..Filter::default() };
    let letter = desk.list(&others).await.unwrap().remove(0);
    assert_eq!(desk.payload(letter.number).await.unwrap(), "{}");

    operate(&desk, &producer).await;
    let rest = unreadable_events(&fleet, first, events - first);
    let (times, ()) = beside(&fleet, "rest", rest).await;
    times.print("beside the letters that SQL holds");
    times.compare(&quiet);
    assert_nothing_is_lost(&fleet, &desk, events).await;
    let outcome = t2.publish("k2", "cart.c2.open", super::open("bob")).await;
    assert_eq!(outcome["status"], 201);
}
