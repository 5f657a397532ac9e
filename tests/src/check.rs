//! The invariants that hold after every run, checked from outside: SQL, KV and streams.

use std::collections::BTreeMap;

use async_nats::jetstream;
use brigade_contracts::{Address, Token, topology::Topology};
use brigade_dev::invariants::{
    self,
    kv::{self, Snapshot},
    streams,
};
use serde_json::Value;

use crate::{TestFleet, money};

/// Returns whether every durable consumer has acknowledged everything.
pub async fn all_consumed(fleet: &TestFleet) -> bool {
    let js = jetstream::new(fleet.connect("operator").await);
    for (stream, consumers) in Topology::compiled_in().consumers {
        for durable in consumers.keys() {
            let info: Result<Value, _> = js
                .request(format!("CONSUMER.INFO.{stream}.{durable}"), &serde_json::json!({}))
                .await;
            let Ok(info) = info else { return false };
            if info["num_pending"] != 0 || info["num_ack_pending"] != 0 {
                return false;
            }
        }
    }
    true
}

/// Checks all invariants of a fleet that is idle.
///
/// # Panics
/// Where one is broken.
pub async fn invariants(fleet: &TestFleet) {
    versions_have_no_gap(fleet).await;
    events_are_in_the_stream_in_order(fleet).await;
    kv_equals_sql(fleet).await;
    kv_equals_sql_of_payments(fleet).await;
    money::invariants(fleet).await;
    tables_are_as_their_turns_say(fleet).await;
    kv_equals_sql_of_users(fleet).await;
    nothing_is_dead(fleet).await;
}

/// I-2: versions of an aggregate are 1..n, and events likewise.
async fn versions_have_no_gap(fleet: &TestFleet) {
    let mut connection = fleet.sql.acquire().await.expect("sql");
    let broken = invariants::versions(&mut connection).await.expect("sql");
    assert_eq!(broken, Vec::<String>::new());
}

/// I-3: every event is in `EVENTS`, and first occurrences are in order within the aggregate.
///
/// # Panics
/// Where one is not, or too early.
pub async fn events_are_in_the_stream_in_order(fleet: &TestFleet) {
    assert_eq!(lost_events(fleet, true).await, Vec::<String>::new());
}

/// I-3 after a loss of the stream: every event is in `EVENTS` at least once.
///
/// # Panics
/// Where one is not.
pub async fn events_are_in_the_stream_at_least_once(fleet: &TestFleet) {
    assert_eq!(lost_events(fleet, false).await, Vec::<String>::new());
}

async fn lost_events(fleet: &TestFleet, in_order: bool) -> Vec<String> {
    let js = jetstream::new(fleet.connect("operator").await);
    let mut connection = fleet.sql.acquire().await.expect("sql");
    streams::lost_events(&mut connection, &js, in_order).await.expect("read")
}

/// Returns address, name and version of everything in `EVENTS`, in order.
///
/// # Panics
/// Where something is no event.
pub async fn events_in_stream(fleet: &TestFleet) -> Vec<(Address, Token, u64)> {
    let js = jetstream::new(fleet.connect("operator").await);
    streams::events(&js).await.expect("events")
}

/// Returns everything in `EVENTS`, in order.
pub async fn raw_events(fleet: &TestFleet) -> Vec<async_nats::Message> {
    messages_of(fleet, "EVENTS").await
}

async fn messages_of(fleet: &TestFleet, stream: &str) -> Vec<async_nats::Message> {
    let js = jetstream::new(fleet.connect("operator").await);
    streams::messages(&js, stream).await.expect("messages")
}

async fn snapshot(fleet: &TestFleet) -> Snapshot {
    Snapshot::read(&jetstream::new(fleet.connect("operator").await)).await
}

/// I-4 of carts and orders: KV equals SQL.
///
/// # Panics
/// Where they differ.
pub async fn kv_equals_sql(fleet: &TestFleet) {
    let differences = kv::of_carts_and_orders(&fleet.sql, &snapshot(fleet).await).await;
    assert_eq!(differences.expect("sql"), Vec::<String>::new());
}

/// I-4 of payments, locks, tables and products.
async fn kv_equals_sql_of_payments(fleet: &TestFleet) {
    let differences =
        kv::of_payments_locks_tables_and_products(&fleet.sql, &snapshot(fleet).await).await;
    assert_eq!(differences.expect("sql"), Vec::<String>::new());
}

/// I-13: a table is occupied exactly as long as it has an open turn, and no turn that was closed
/// but by force has an unpaid order, nor an open one nothing but paid and cancelled ones.
async fn tables_are_as_their_turns_say(fleet: &TestFleet) {
    let mut connection = fleet.sql.acquire().await.expect("sql");
    let broken = invariants::tables(&mut connection).await.expect("sql");
    assert_eq!(broken, Vec::<String>::new());
}

/// I-4 of users.
///
/// # Panics
/// Where a part in KV differs from SQL.
pub async fn kv_equals_sql_of_users(fleet: &TestFleet) {
    let differences = kv::of_users(&fleet.sql, &snapshot(fleet).await).await;
    assert_eq!(differences.expect("sql"), Vec::<String>::new());
}

/// I-14: nothing was dead-lettered.
async fn nothing_is_dead(fleet: &TestFleet) {
    let reason = |letter: &async_nats::Message| {
        letter.headers.as_ref().map(|headers| format!("{} {headers:?}", letter.subject))
    };
    let dead: Vec<_> = dead_letters(fleet).await.iter().map(reason).collect();
    assert!(dead.is_empty(), "dead letters: {dead:#?}");
}

/// Returns the stored subjects of all streams but those named, with the number of messages each.
///
/// # Panics
/// Where a stream is not there.
pub async fn stored_subjects(fleet: &TestFleet, but: &[&str]) -> BTreeMap<String, u64> {
    let js = jetstream::new(fleet.connect("operator").await);
    let mut stored = BTreeMap::new();
    for stream in Topology::compiled_in().streams.keys() {
        if but.contains(&stream.as_str()) {
            continue;
        }
        let info: Value = js
            .request(format!("STREAM.INFO.{stream}"), &serde_json::json!({"subjects_filter": ">"}))
            .await
            .expect("a stream");
        let subjects = info["state"]["subjects"].as_object().cloned().unwrap_or_default();
        let counts = subjects.into_iter().map(|(subject, n)| (subject, n.as_u64().expect("n")));
        stored.extend(counts);
    }
    stored
}

/// Returns everything in `DLQ`.
pub async fn dead_letters(fleet: &TestFleet) -> Vec<async_nats::Message> {
    messages_of(fleet, "DLQ").await
}

/// Reads a value of a bucket from the leader, as an operator may.
pub async fn kv(fleet: &TestFleet, bucket: &str, key: &str) -> Option<Value> {
    kv_by(&jetstream::new(fleet.connect("operator").await), bucket, key).await
}

pub(crate) async fn kv_by(js: &jetstream::Context, bucket: &str, key: &str) -> Option<Value> {
    let stream = js.get_stream_no_info(format!("KV_{bucket}")).await.ok()?;
    let subject = format!("$KV.{bucket}.{key}");
    let message = stream.get_last_raw_message_by_subject(&subject).await.ok()?;
    serde_json::from_slice(&message.payload).ok()
}
