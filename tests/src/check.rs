//! The invariants that hold after every run, checked from outside: SQL, KV and streams.

use std::collections::{BTreeMap, HashMap, HashSet};

use async_nats::jetstream;
use brigade_contracts::{Address, Token, subject, topology::Topology};
use futures::StreamExt;
use serde_json::Value;
use sqlx::Row;

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
    let broken: Vec<String> = sqlx::query_scalar(
        "select format('%s.%s.%s', tenant, aggregate, id) from brigade.events
         group by tenant, aggregate, id
         having min(version) <> 1 or max(version) <> count(*)
         union all
         select format('%s.%s.%s', s.tenant, s.kind, s.id)
         from (select tenant, 'cart' as kind, id, version from brigade.carts
               union all select tenant, 'order', id, version from brigade.orders
               union all select tenant, 'payment', id, version from brigade.payments
               union all select tenant, 'table', id, version from brigade.tables
               union all select tenant, 'user', id, version from brigade.users) s
         where s.version is distinct from (
             select max(version) from brigade.events e
             where (e.tenant, e.aggregate, e.id) = (s.tenant, s.kind, s.id))",
    )
    .fetch_all(&fleet.sql)
    .await
    .expect("sql");
    assert_eq!(broken, Vec::<String>::new(), "versions with gaps");
}

/// I-3: every event is in `EVENTS`, and first occurrences are in order within the aggregate.
pub async fn events_are_in_the_stream_in_order(fleet: &TestFleet) {
    let mut last: HashMap<String, u64> = HashMap::new();
    let mut seen = 0;
    for (address, name, version) in events_in_stream(fleet).await {
        let last = last.entry(address.to_string()).or_default();
        assert!(version <= *last + 1, "{address}.{name} came at {version} after {last}");
        if version == *last + 1 {
            *last = version;
            seen += 1;
        }
    }
    let stored: i64 = sqlx::query_scalar("select count(*) from brigade.events")
        .fetch_one(&fleet.sql)
        .await
        .expect("sql");
    assert_eq!(seen, stored, "events in EVENTS and in SQL");
}

/// I-3 after a loss of the stream: every event is in `EVENTS` at least once.
///
/// # Panics
/// Where one is not.
pub async fn events_are_in_the_stream_at_least_once(fleet: &TestFleet) {
    let stored: Vec<String> = sqlx::query_scalar(
        "select format('%s.%s.%s.%s@%s', tenant, aggregate, id, type, version)
         from brigade.events",
    )
    .fetch_all(&fleet.sql)
    .await
    .expect("sql");
    let found: HashSet<String> = events_in_stream(fleet)
        .await
        .into_iter()
        .map(|(address, name, version)| format!("{address}.{name}@{version}"))
        .collect();
    let lost: Vec<_> = stored.iter().filter(|event| !found.contains(*event)).collect();
    assert!(lost.is_empty(), "{} of {} events are lost: {lost:?}", lost.len(), stored.len());
}

/// Returns address, name and version of everything in `EVENTS`, in order.
///
/// # Panics
/// Where something is no event.
pub async fn events_in_stream(fleet: &TestFleet) -> Vec<(Address, Token, u64)> {
    let read = |message: async_nats::Message| {
        let headers = message.headers.as_ref().expect("headers");
        let header = |name: &str| headers.get(name).map(|value| value.as_str());
        let version = header("Aggregate-Version").expect("a version").parse().expect("a number");
        let (address, name) =
            subject::parse_event(&message.subject, header("ce-subject")).expect("an event");
        (address, name, version)
    };
    raw_events(fleet).await.into_iter().map(read).collect()
}

/// Returns everything in `EVENTS`, in order.
pub async fn raw_events(fleet: &TestFleet) -> Vec<async_nats::Message> {
    messages_of(fleet, "EVENTS").await
}

async fn messages_of(fleet: &TestFleet, stream: &str) -> Vec<async_nats::Message> {
    let js = jetstream::new(fleet.connect("operator").await);
    let mut stream = js.get_stream(stream).await.expect("a stream");
    let count = stream.info().await.expect("info").state.messages;
    if count == 0 {
        return Vec::new();
    }
    let config = jetstream::consumer::pull::OrderedConfig::default();
    let consumer = stream.create_consumer(config).await.expect("a consumer");
    let messages = consumer.messages().await.expect("messages");
    let count = usize::try_from(count).expect("fits");
    messages.take(count).map(|message| message.expect("a message").message).collect().await
}

/// I-4: KV equals SQL.
pub async fn kv_equals_sql(fleet: &TestFleet) {
    let rows = sqlx::query(
        "select 'cart' as kind, to_jsonb(c) as row from brigade.carts c
         union all select 'order', to_jsonb(o) from brigade.orders o",
    )
    .fetch_all(&fleet.sql)
    .await
    .expect("sql");
    let js = jetstream::new(fleet.connect("operator").await);
    for row in rows {
        let kind: &str = row.get("kind");
        let row: Value = row.get("row");
        let (tenant, id) = (row["tenant"].as_str().unwrap(), row["id"].as_str().unwrap());
        let key = format!("{tenant}.{kind}.{id}");
        let versions = kv_by(&js, "versions", &key).await.unwrap_or_default();
        assert_eq!(versions["version"], row["version"], "{key}");
        assert_eq!(versions["parts"], row["parts"], "{key}");
        for part in ["core", "payments"] {
            let projected = kv_by(&js, "views", &format!("{key}.{part}")).await.unwrap_or_default();
            assert_eq!(projected["version"], row["parts"][part], "{key}.{part}");
            for (field, value) in projected.as_object().expect("an object") {
                let same = match field.as_str() {
                    // Of the part, or computed from several columns; unit tests hold these.
                    "version" | "at" | "total" => continue,
                    "members" if part == "core" => continue,
                    // One instant in two notations.
                    "created_at" | "paid_at" | "locked_until" if !value.is_null() => continue,
                    "payments" => *value == projected_payments(&row[field]),
                    field => *value == row[field],
                };
                assert!(same, "{key}.{part}: {field} is {value} in KV, {} in SQL", row[field]);
            }
        }
        if kind == "order" {
            let projected = kv_by(&js, "active_orders", &format!("{tenant}.{id}.core")).await;
            let projected = projected.unwrap_or_default();
            assert_eq!(projected["version"], row["parts"]["core"], "{key} in active_orders");
            assert_eq!(projected["status"], row["status"], "{key} in active_orders");
            assert_eq!(projected["items"], row["items"], "{key} in active_orders");
            let paid = kv_by(&js, "active_orders", &format!("{tenant}.{id}.payment")).await;
            assert_eq!(paid.unwrap_or_default()["paid"], row["paid"], "{key} in active_orders");
        }
    }
}

/// Returns the payments of a row of `carts` or `orders` as they are projected.
fn projected_payments(kept: &Value) -> Value {
    let mut projected = kept.clone();
    for payment in projected.as_array_mut().into_iter().flatten() {
        let fields = payment.as_object_mut().expect("an object");
        fields.retain(|name, _| name != "token" && name != "applied");
    }
    projected
}

/// I-4 of payments, locks and tables, whose columns are named like the fields in KV.
async fn kv_equals_sql_of_payments(fleet: &TestFleet) {
    let rows: Vec<(String, Value)> = sqlx::query_as(
        "select format('views|%s.payment.%s.core', tenant, id),
                to_jsonb(p) || jsonb_build_object(
                    'target', jsonb_build_object(target_kind, target_id),
                    'bound', transaction_id is not null)
         from brigade.payments p
         union all
         select format('cart_locks|%s.%s', tenant, owner),
                to_jsonb(l) || jsonb_build_object('cart', cart_id)
         from brigade.cart_locks l
         -- A lock over no cart at all was put there by a test.
         where exists (select from brigade.carts c where (c.tenant, c.id) = (l.tenant, l.cart_id))
         union all
         select format('views|%s.table.%s.core', t.tenant, t.id),
                to_jsonb(t) || jsonb_build_object('open_turn', (
                    select jsonb_build_object('id', u.id, 'party_size', u.party_size,
                                              'opened_at', u.opened_at)
                    from brigade.turns u where (u.tenant, u.id) = (t.tenant, t.open_turn_id)))
         from brigade.tables t",
    )
    .fetch_all(&fleet.sql)
    .await
    .expect("sql");
    let js = jetstream::new(fleet.connect("operator").await);
    for (place, row) in rows {
        let (bucket, key) = place.split_once('|').expect("both");
        let projected = kv_by(&js, bucket, key).await.unwrap_or_default();
        for (field, value) in projected.as_object().unwrap_or_else(|| panic!("no {place}")) {
            if field == "open_turn" {
                let without_time = |turn: &Value| (turn["id"].clone(), turn["party_size"].clone());
                assert_eq!(without_time(value), without_time(&row[field]), "{place}: {field}");
            // One instant in two notations.
            } else if !["at", "acquired_at", "expires_at"].contains(&field.as_str()) {
                assert_eq!(*value, row[field], "{place}: {field} in KV and in SQL");
            }
        }
        assert_eq!(projected["version"], row["version"], "{place}");
    }
}

/// I-13: a table is occupied exactly as long as it has an open turn, and no turn that was closed
/// but by force has an unpaid order, nor an open one nothing but paid and cancelled ones.
async fn tables_are_as_their_turns_say(fleet: &TestFleet) {
    let broken: Vec<String> = sqlx::query_scalar(
        "select format('table %s.%s is %s', t.tenant, t.id, t.status) from brigade.tables t
         left join brigade.turns u
              on (u.tenant, u.table_id) = (t.tenant, t.id) and u.closed_at is null
         where (t.status = 'occupied') <> (u.id is not null)
            or t.open_turn_id is distinct from u.id
         union all
         select format('turn %s.%s, closed: %s', u.tenant, u.id, u.close_reason)
         from brigade.turns u
         join brigade.orders o on (o.tenant, o.turn_id) = (u.tenant, u.id)
         group by u.tenant, u.id
         having bool_or(o.paid_at is null and o.status <> 'cancelled')
                is distinct from (u.closed_at is null) and u.close_reason is distinct from 'forced'",
    )
    .fetch_all(&fleet.sql)
    .await
    .expect("sql");
    assert_eq!(broken, Vec::<String>::new(), "tables and turns");
}

/// I-4 of users.
///
/// # Panics
/// Where a part in KV differs from SQL.
pub async fn kv_equals_sql_of_users(fleet: &TestFleet) {
    let rows: Vec<Value> = sqlx::query_scalar(
        "select to_jsonb(u) || jsonb_build_object('user', id) from brigade.users u",
    )
    .fetch_all(&fleet.sql)
    .await
    .expect("sql");
    let js = jetstream::new(fleet.connect("operator").await);
    for row in rows {
        let (tenant, id) = (row["tenant"].as_str().unwrap(), row["id"].as_str().unwrap());
        let versions = kv_by(&js, "versions", &format!("{tenant}.user.{id}")).await;
        let versions = versions.unwrap_or_default();
        assert_eq!((&versions["version"], &versions["parts"]), (&row["version"], &row["parts"]));
        for part in ["auth", "subscription", "roles"] {
            let key = format!("{tenant}.{id}.{part}");
            let projected = kv_by(&js, "user_state", &key).await.unwrap_or_default();
            assert_eq!(projected["version"], row["parts"][part], "{key}");
            for (field, value) in projected.as_object().expect("an object") {
                let stored = if part == "subscription" { &row["subscription"] } else { &row };
                match field.as_str() {
                    "version" | "at" => {}
                    // One instant in two notations.
                    at if at.ends_with("_at") => assert_eq!(value.is_null(), stored[at].is_null()),
                    field => assert_eq!(*value, stored[field], "{key}: {field} in KV and in SQL"),
                }
            }
        }
    }
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
