//! Every bad input that the doors, the queries and the events can carry: the outcome that the
//! contract names, nothing changed, the next command served at once.

use brigade_tests::{Producer, Reply, TestFleet, check, producer::item, until};
use serde_json::{Value, json};

/// A bad message and the answer that it must get.
pub struct Bad {
    pub name: String,
    /// The rest of the subject, after `<door>.<tenant>.`.
    pub what: String,
    pub headers: Vec<(&'static str, String)>,
    pub payload: Vec<u8>,
    pub status: u16,
    pub code: &'static str,
}

pub fn bad(
    name: impl Into<String>,
    what: &str,
    payload: impl Into<Vec<u8>>,
    status: u16,
    code: &'static str,
) -> Bad {
    let name = name.into();
    Bad { name, what: what.to_owned(), headers: Vec::new(), payload: payload.into(), status, code }
}

fn with(mut case: Bad, name: &'static str, value: &str) -> Bad {
    case.headers.push((name, value.to_owned()));
    case
}

/// Returns a payload of `add_item` with one field replaced.
fn add(field: &str, value: &str) -> Vec<u8> {
    let mut fields = vec![
        ("item_id", "\"i1\"".to_owned()),
        ("sku", "\"s\"".to_owned()),
        ("name", "\"n\"".to_owned()),
        ("unit_price", "1".to_owned()),
        ("quantity", "1".to_owned()),
    ];
    for (name, old) in &mut fields {
        if *name == field {
            value.clone_into(old);
        }
    }
    let known = fields.iter().any(|(name, _)| *name == field);
    let mut text: Vec<_> =
        fields.iter().map(|(name, value)| format!("\"{name}\":{value}")).collect();
    if !known {
        text.push(format!("\"{field}\":{value}"));
    }
    format!("{{{}}}", text.join(",")).into_bytes()
}

pub fn cases() -> Vec<Bad> {
    let long = "x".repeat(65);
    let text_201 = format!("\"{}\"", "x".repeat(201));
    let deep = format!("{{\"user\":{}1{}}}", "[".repeat(10_000), "]".repeat(10_000));
    let items = |count: usize| {
        let item = json!({"sku": "s", "name": "n", "unit_price": 1, "quantity": 1});
        json!({"currency": "EUR", "items": vec![item; count]}).to_string()
    };
    let mut padded = b"{\"user\":\"bob\"}".to_vec();
    padded.resize(64 * 1024 + 1, b' ');
    let join = || b"{\"user\":\"bob\"}".to_vec();
    vec![
        bad("empty", "cart.c1.join", "", 400, "malformed"),
        bad("not JSON", "cart.c1.join", "join me", 400, "malformed"),
        bad("an array", "cart.c1.join", "[\"bob\"]", 400, "malformed"),
        bad("a string", "cart.c1.join", "\"bob\"", 400, "malformed"),
        bad("null", "cart.c1.join", "null", 400, "malformed"),
        bad("two objects", "cart.c1.join", "{\"user\":\"bob\"}{}", 400, "malformed"),
        bad("cut off", "cart.c1.join", "{\"user\":\"bob\"", 400, "malformed"),
        bad("no field", "cart.c1.join", "{}", 400, "missing_field"),
        bad("a null field", "cart.c1.join", "{\"user\":null}", 400, "malformed"),
        bad("another type", "cart.c1.join", "{\"user\":[]}", 400, "malformed"),
        bad("an unknown field", "cart.c1.join", "{\"user\":\"bob\",\"a\":1}", 400, "unknown_field"),
        bad("a key twice", "cart.c1.join", "{\"user\":\"a\",\"user\":\"b\"}", 400, "duplicate_key"),
        bad("invalid UTF-8", "cart.c1.join", b"{\"user\":\"\xff\"}".to_vec(), 400, "malformed"),
        bad("depth 10,000", "cart.c1.join", deep, 400, "malformed"),
        bad("64 KiB + 1", "cart.c1.join", padded, 413, "payload_too_large"),
        bad("an empty id", "cart.c1.join", "{\"user\":\"\"}", 400, "bad_token"),
        bad("an id of 65", "cart.c1.join", format!("{{\"user\":\"{long}\"}}"), 400, "bad_token"),
        bad("an id with .", "cart.c1.join", "{\"user\":\"a.b\"}", 400, "bad_token"),
        bad("an id with *", "cart.c1.join", "{\"user\":\"*\"}", 400, "bad_token"),
        bad("an id with >", "cart.c1.join", "{\"user\":\">\"}", 400, "bad_token"),
        bad("an id with a space", "cart.c1.join", "{\"user\":\"a b\"}", 400, "bad_token"),
        bad("an id with a line", "cart.c1.join", "{\"user\":\"a\\n\"}", 400, "bad_token"),
        bad("an id beyond ASCII", "cart.c1.join", "{\"user\":\"\u{fc}\"}", 400, "bad_token"),
        bad("quantity 0", "cart.c1.add_item", add("quantity", "0"), 422, "quantity_out_of_range"),
        bad(
            "quantity 1000",
            "cart.c1.add_item",
            add("quantity", "1000"),
            422,
            "quantity_out_of_range",
        ),
        bad("quantity -1", "cart.c1.add_item", add("quantity", "-1"), 422, "quantity_out_of_range"),
        bad("quantity 1.5", "cart.c1.add_item", add("quantity", "1.5"), 400, "malformed"),
        bad("quantity \"1\"", "cart.c1.add_item", add("quantity", "\"1\""), 400, "malformed"),
        bad(
            "quantity beyond i64",
            "cart.c1.add_item",
            add("quantity", "9223372036854775808"),
            400,
            "malformed",
        ),
        bad(
            "a negative price",
            "cart.c1.add_item",
            add("unit_price", "-1"),
            422,
            "negative_amount",
        ),
        bad("a fraction of money", "cart.c1.add_item", add("unit_price", "0.1"), 400, "malformed"),
        bad("an exponent of money", "cart.c1.add_item", add("unit_price", "1e3"), 400, "malformed"),
        bad(
            "money beyond i64",
            "cart.c1.add_item",
            add("unit_price", "9223372036854775808"),
            400,
            "malformed",
        ),
        bad("a long name", "cart.c1.add_item", add("name", &text_201), 422, "too_large"),
        bad("a NUL in a name", "cart.c1.add_item", add("name", "\"a\\u0000\""), 422, "bad_text"),
        bad(
            "no sku",
            "cart.c1.add_item",
            b"{\"item_id\":\"i1\",\"name\":\"n\",\"unit_price\":1,\"quantity\":1}".to_vec(),
            400,
            "missing_field",
        ),
        bad("an item of nobody", "cart.c1.add_item", add("user", "\"eve\""), 422, "not_a_member"),
        bad(
            "an unknown kind",
            "cart.c9.open",
            "{\"kind\":\"bowl\",\"owner\":\"a\",\"currency\":\"EUR\"}",
            400,
            "malformed",
        ),
        bad(
            "an unknown currency",
            "cart.c9.open",
            "{\"kind\":\"menu\",\"owner\":\"a\",\"currency\":\"EUX\"}",
            422,
            "unknown_currency",
        ),
        bad(
            "a currency in lower case",
            "cart.c9.open",
            "{\"kind\":\"menu\",\"owner\":\"a\",\"currency\":\"eur\"}",
            422,
            "unknown_currency",
        ),
        bad("nothing there", "cart.c9.join", join(), 404, "not_found"),
        bad(
            "there already",
            "cart.c1.open",
            "{\"kind\":\"menu\",\"owner\":\"a\",\"currency\":\"EUR\"}",
            409,
            "already_exists",
        ),
        bad("a member already", "cart.c1.join", "{\"user\":\"ada\"}", 409, "already_member"),
        bad("no such item", "cart.c1.remove_item", "{\"item_id\":\"i9\"}", 404, "item_not_found"),
        bad("an unknown verb", "cart.c1.fly", "{}", 404, "unknown_verb"),
        bad("a long id", &format!("cart.{long}.join"), join(), 400, "bad_subject"),
        bad("no items", "order.o9.place", items(0), 422, "order_empty"),
        bad("201 items", "order.o9.place", items(201), 422, "too_large"),
        bad(
            "an unknown table",
            "order.o9.place",
            "{\"table_id\":\"t9\",\"currency\":\"EUR\",\"items\":[]}",
            404,
            "table_not_found",
        ),
        bad("a payload that should be {}", "order.o1.accept", "", 400, "malformed"),
        bad("a step too far", "order.o1.serve", "{}", 409, "illegal_step"),
        with(
            bad("a deadline in the past", "cart.c1.join", join(), 504, "deadline_passed"),
            "Deadline",
            "2020-01-01T00:00:00Z",
        ),
        with(
            bad("a deadline beyond UTC", "cart.c1.join", join(), 400, "bad_header"),
            "Deadline",
            "9999-12-31T23:59:59-01:00",
        ),
        bad(
            "a NUL in a field's name",
            "cart.c1.join",
            "{\"user\":\"bob\",\"\\u0000x\":1}",
            400,
            "unknown_field",
        ),
        bad(
            "a NUL in a kind",
            "cart.c9.open",
            "{\"kind\":\"\\u0000\",\"owner\":\"a\",\"currency\":\"EUR\"}",
            400,
            "malformed",
        ),
        with(
            bad("a malformed deadline", "cart.c1.join", join(), 400, "bad_header"),
            "Deadline",
            "tomorrow",
        ),
        with(
            bad("version 0", "cart.c1.join", join(), 412, "version_mismatch"),
            "Expected-Version",
            "0",
        ),
        with(
            bad("version u64::MAX", "cart.c1.join", join(), 412, "version_mismatch"),
            "Expected-Version",
            "18446744073709551615",
        ),
        with(
            bad("version beyond u64", "cart.c1.join", join(), 400, "bad_header"),
            "Expected-Version",
            "18446744073709551616",
        ),
        with(
            bad("a malformed version", "cart.c1.join", join(), 400, "bad_header"),
            "Expected-Version",
            "one",
        ),
        with(bad("a malformed actor", "cart.c1.join", join(), 400, "bad_header"), "Actor", "a b"),
        with(
            with(bad("an actor twice", "cart.c1.join", join(), 400, "bad_header"), "Actor", "a"),
            "Actor",
            "b",
        ),
        with(
            bad("a malformed trace", "cart.c1.join", join(), 400, "bad_header"),
            "traceparent",
            "00-1-2-3",
        ),
        with(
            bad("headers above 4 KiB", "cart.c1.join", join(), 413, "headers_too_large"),
            "X-Large",
            &"x".repeat(4096),
        ),
        with(
            bad("headers of 60 KB", "cart.c1.join", join(), 413, "headers_too_large"),
            "X-Large",
            &"x".repeat(60_000),
        ),
    ]
}

#[tokio::test]
async fn bad_commands_through_either_door_are_answered_as_the_contract_says() {
    let fleet = TestFleet::start().await;
    let producer = fleet.producer().await;
    producer.team_cart("c1", "ada", &[]).await;
    let order = brigade_tests::producer::placed(&[("Soup", 500, 1)]);
    assert_eq!(producer.send("order.o1.place", order).await.status, 201);
    let cases: Vec<_> = cases().into_iter().chain(super::bad_payments::cases()).collect();
    assert!(cases.len() >= 200);
    for (at, case) in cases.iter().enumerate() {
        let id = format!("r{at}");
        let mut headers = vec![("Command-Id", id.as_str())];
        headers.extend(case.headers.iter().map(|(name, value)| (*name, value.as_str())));
        let subject = format!("req.t1.{}", case.what);
        let reply = producer.request(&subject, &headers, &case.payload).await.expect(&case.name);
        assert_eq!(
            (reply.status, reply.code().as_str()),
            (case.status, case.code),
            "{}",
            case.name
        );
        refused_shape(case, &reply.body());
        // And once more, from the inbox: the same bytes.
        let again = producer.request(&subject, &headers, &case.payload).await.expect(&case.name);
        assert_eq!(again.bytes, reply.bytes, "{} again", case.name);

        let id = format!("d{at}");
        headers[0].1 = id.as_str();
        let outcome = durable(&producer, &id, case, &headers).await;
        assert_eq!(outcome["status"], case.status, "{} on the durable door", case.name);
        assert_eq!(outcome["code"], case.code, "{} on the durable door", case.name);
    }
    // Nothing changed, and the next command is served.
    let versions: (i64, i64) = sqlx::query_as(
        "select (select version from brigade.carts), (select version from brigade.orders)",
    )
    .fetch_one(&fleet.sql)
    .await
    .unwrap();
    assert_eq!(versions, (1, 1));
    let others: i64 = sqlx::query_scalar(
        "select (select count(*) from brigade.payments) + (select count(*) from brigade.cart_locks)",
    )
    .fetch_one(&fleet.sql)
    .await
    .unwrap();
    assert_eq!(others, 0, "no payment and no lock");
    assert_eq!(producer.send("cart.c1.add_item", item("i1", 100, 1)).await.status, 200);
    fleet.finish().await;
}

async fn durable(producer: &Producer, id: &str, case: &Bad, headers: &[(&str, &str)]) -> Value {
    let mut map = async_nats::HeaderMap::new();
    for (name, value) in headers {
        map.append(*name, *value);
    }
    let js = async_nats::jetstream::new(producer.client.clone());
    let subject = format!("cmd.t1.{}", case.what);
    let sent = js.publish_with_headers(subject, map, case.payload.clone().into()).await;
    sent.unwrap().await.unwrap_or_else(|error| panic!("{}: {error}", case.name));
    let query = format!("q.t1.outcome.{id}");
    let reply = producer.request(&query, &[("Wait-Ms", "20000")], b"").await.expect(&case.name);
    assert_eq!(reply.status, 200, "{}", case.name);
    reply.body()
}

/// A refusal is an outcome too, without effects.
fn refused_shape(case: &Bad, outcome: &Value) {
    assert_eq!(outcome["effects"], json!([]), "{}", case.name);
    assert_eq!(outcome["data"], json!({}), "{}", case.name);
    assert_eq!(outcome["etag"], Value::Null, "{}", case.name);
    let fields = [
        "aggregate",
        "code",
        "command_id",
        "data",
        "effects",
        "etag",
        "id",
        "message",
        "retry_after_ms",
        "status",
        "version",
    ];
    // Only where a field is wrong.
    let is_always = |field: &&str| *field != "param";
    let found = outcome.as_object().unwrap().keys().map(String::as_str).filter(is_always);
    assert_eq!(found.collect::<Vec<_>>(), fields, "{}", case.name);
}

#[tokio::test]
async fn what_cannot_carry_an_outcome_is_answered_or_dead_lettered() {
    let fleet = TestFleet::start().await;
    let producer = fleet.producer().await;
    let join = b"{\"user\":\"bob\"}";
    let ids: [&[(&str, &str)]; 4] = [
        &[],
        &[("Command-Id", "")],
        &[("Command-Id", "a b")],
        &[("Command-Id", "a"), ("Command-Id", "b")],
    ];
    for headers in ids {
        let reply = producer.request("req.t1.cart.c1.join", headers, join).await.unwrap();
        assert_eq!((reply.status, reply.code().as_str()), (400, "missing_command_id"));
        let mut map = async_nats::HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, *value);
        }
        let js = async_nats::jetstream::new(producer.client.clone());
        let sent = js.publish_with_headers("cmd.t1.cart.c1.join", map, join.to_vec().into());
        sent.await.unwrap().await.unwrap();
    }
    for subject in ["req.t1.cart.c1", "req.t1.cart.c1.join.x", "req.t1.x"] {
        let reply = producer.request(subject, &[("Command-Id", "k")], join).await.unwrap();
        assert_eq!((reply.status, reply.code().as_str()), (400, "bad_subject"), "{subject}");
    }
    let reused = producer.send_as(
        "k1",
        "cart.c1.open",
        json!({"kind": "menu", "owner": "a", "currency": "EUR"}),
    );
    assert_eq!(reused.await.status, 201);
    producer.store("k1", "cart.c1.join", "{\"user\":\"bob\"}").await;
    let letters = until("five dead letters", || async {
        let letters = check::dead_letters(&fleet).await;
        (letters.len() == 5).then_some(letters)
    })
    .await;
    let reasons: Vec<_> = letters
        .iter()
        .map(|letter| {
            letter.headers.as_ref().unwrap().get("Dead-Reason").unwrap().as_str().to_owned()
        })
        .collect();
    assert!(
        reasons[..4].iter().all(|reason| reason.starts_with("missing_command_id")),
        "{reasons:?}"
    );
    assert!(reasons[4].starts_with("command_id_reused"), "{reasons:?}");
    assert!(letters.iter().all(|letter| &letter.payload[..] == join));
    assert_eq!(producer.send("cart.c1.add_item", item("i1", 1, 1)).await.status, 200);
    fleet.until_idle().await;
}

#[tokio::test]
async fn the_durable_stream_takes_no_unknown_aggregate() {
    let fleet = TestFleet::start().await;
    let producer = fleet.producer().await;
    let js = async_nats::jetstream::new(producer.client.clone());
    for subject in ["cmd.t1.basket.b1.open", "cmd.t1.user.u1.fly", "cmd.t1.cart.c1"] {
        let sent = js.publish(subject, "{}".into()).await.unwrap();
        assert!(sent.await.is_err(), "{subject}");
    }
    // Nor what could not become a dead letter, for which its copy needs room.
    let large = vec![b' '; 200_000];
    let sent = js.publish("cmd.t1.cart.c1.join", large.into()).await.unwrap();
    assert!(sent.await.is_err());
    let reply = producer.send("basket.b1.open", json!({})).await;
    assert_eq!((reply.status, reply.code().as_str()), (404, "unknown_verb"));
    fleet.finish().await;
}

#[tokio::test]
async fn bad_queries_are_refused_and_cost_nobody_else_anything() {
    let fleet = TestFleet::start().await;
    let producer = fleet.producer().await;
    producer.team_cart("c1", "ada", &[]).await;
    let long = format!("q.t1.view.cart.{}", "x".repeat(65));
    type Case<'a> = (&'a str, &'a [(&'a str, &'a str)], u16);
    let cases: &[Case<'_>] = &[
        ("q.t1.view.cart.c9", &[], 404),
        ("q.t1.view.basket.c1", &[], 404),
        (&long, &[], 400),
        ("q.t1.view.cart.c1", &[("If-None-Match", "\"1")], 400),
        ("q.t1.view.cart.c1", &[("If-None-Match", "1")], 400),
        ("q.t1.view.cart.c1", &[("If-None-Match", "\"1\""), ("If-None-Match", "\"2\"")], 400),
        ("q.t1.view.cart.c1", &[("Min-Version", "-1")], 400),
        ("q.t1.view.cart.c1", &[("Min-Version", "18446744073709551616")], 400),
        ("q.t1.view.cart.c1", &[("Min-Version", "2"), ("Wait-Ms", "30001")], 400),
        ("q.t1.view.cart.c1", &[("Min-Version", "2"), ("Wait-Ms", "soon")], 400),
        ("q.t1.view.cart.c1", &[("Min-Version", "18446744073709551615")], 504),
        ("q.t1.view.cart.c1", &[("Confirm", "guess")], 400),
        ("q.t1.outcome.k9", &[], 404),
        ("q.t1.outcome.k9", &[("Wait-Ms", "30001")], 400),
        ("q.t1.view.payment.p9", &[], 404),
        ("q.t1.lock.nobody", &[], 404),
        ("q.t1.lock_history.a*b", &[], 400),
        ("q.t1.lock_history.ada", &[("Limit", "0")], 400),
        ("q.t1.lock_history.ada", &[("Limit", "501")], 400),
        ("q.t1.lock_history.ada", &[("Limit", "5"), ("Limit", "5")], 400),
        ("q.t1.lock_history.ada", &[("Before", "yesterday")], 400),
    ];
    for (subject, headers, status) in cases {
        let reply: Reply = producer.request(subject, headers, b"").await.unwrap();
        let known = match (*status, reply.status) {
            // Which of the two an unknown kind of aggregate is, the contract leaves open.
            (404, 400) if subject.contains("basket") => true,
            (expected, found) => expected == found,
        };
        assert!(known, "{subject} {headers:?}: {} {}", reply.status, reply.body());
        let error = reply.headers.iter().any(|(name, _)| name == "Nats-Service-Error-Code");
        assert!(error, "{subject} {headers:?}");
    }
    assert_eq!(producer.view("cart.c1", Some("W/\"1\", \"7\"")).await.status, 304);
    assert_eq!(producer.view("cart.c1", Some("*")).await.status, 304);
    fleet.finish().await;
}

#[tokio::test]
async fn events_that_nobody_committed_and_later_schemas_harm_nothing() {
    let fleet = TestFleet::start().await;
    let producer = fleet.producer().await;
    producer.team_cart("c1", "ada", &[]).await;
    fleet.until_idle().await;
    let relay = async_nats::jetstream::new(fleet.connect("outbox-relay").await);
    let payments = check::kv(&fleet, "views", "t1.cart.c1.payments").await.unwrap();
    let mut newer = payments.clone();
    newer["field_of_a_later_schema"] = json!(true);
    for payload in [
        json!({"data": {}, "after": {"ended": false}, "field_of_a_later_schema": 1}),
        json!({"data": {}, "after": {"ended": false, "payments": newer}}),
        json!({"data": {}, "after": {"ended": false, "payments": {"version": 0}}}),
        json!({"data": {}}),
        json!([]),
    ] {
        let mut headers = async_nats::HeaderMap::new();
        headers.insert("ce-subject", "c1");
        let payload = payload.to_string().into();
        let sent = relay.publish_with_headers("evt.t1.cart.opened.00", headers, payload).await;
        sent.unwrap().await.unwrap();
    }
    until("the dead letters", || async {
        (check::dead_letters(&fleet).await.len() == 3).then_some(())
    })
    .await;
    assert_eq!(check::kv(&fleet, "views", "t1.cart.c1.payments").await.unwrap(), payments);
    assert_eq!(producer.send("cart.c1.join", json!({"user": "bob"})).await.status, 200);
    fleet.until_idle().await;
    check::kv_equals_sql(&fleet).await;
}

#[tokio::test]
async fn an_answer_goes_to_an_inbox_and_nowhere_else() {
    let fleet = TestFleet::start().await;
    let producer = fleet.producer().await;
    producer.team_cart("c1", "ada", &[]).await;
    fleet.until_idle().await;
    let before = check::kv(&fleet, "versions", "t1.cart.c1").await.unwrap();
    let stored = check::stored_subjects(&fleet, &["COMMANDS"]).await;
    let stranger = fleet.connect("t2-producer").await;
    let mut headers = async_nats::HeaderMap::new();
    headers.insert("If-None-Match", "*");
    headers.insert("Command-Id", "k");
    for reply in [
        "$JS.API.STREAM.DELETE.EVENTS",
        "$JS.API.STREAM.DELETE.COMMANDS",
        "$JS.API.STREAM.PURGE.KV_views",
        "$KV.versions.t1.cart.c1",
        "$KV.views.t1.cart.c1.core",
        "evt.t1.cart.opened.00",
        "outcome.t1.k",
        "req.t1.cart.c1.abandon",
    ] {
        for subject in [
            "q.t2.view.cart.c9",
            "req.t2.cart.c9.join",
            "cmd.t2.cart.c9.join",
            "cmd.t2.user.u1.login",
        ] {
            let sent = stranger.publish_with_reply_and_headers(
                subject,
                reply,
                headers.clone(),
                "{}".into(),
            );
            sent.await.unwrap();
        }
    }
    // The stranger's own later requests are answered: by then the forged ones were dealt with.
    let own = Producer::new(stranger, "t2");
    assert_eq!(own.view("cart.c9", None).await.status, 404);
    assert_eq!(own.send("cart.c9.join", json!({"user": "eve"})).await.status, 404);
    assert_eq!(check::kv(&fleet, "versions", "t1.cart.c1").await.unwrap(), before);
    fleet.until_idle().await;
    assert_eq!(check::stored_subjects(&fleet, &["COMMANDS"]).await, stored);
    fleet.finish().await;
}
