//! S7-08: the active orders have pages, and nobody's orders push others off a screen.

use std::{collections::BTreeMap, time::Duration};

use brigade_contracts::{
    Token,
    client::{ActiveOrders, Client},
};
use brigade_tests::{HttpClient, Producer, Reply, TestFleet, check, sse::StreamedOrders};
use futures::future::join_all;
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::{
    healing::until_healed,
    lists::{place, rows_in_sql, step},
    prices::{product, wanted, with_roles},
};

/// Ends a test that hangs.
const PATIENCE: Duration = Duration::from_secs(60);

pub fn rows(body: &Value) -> Vec<Value> {
    body["rows"].as_array().expect("rows").clone()
}

pub fn named(rows: &[Value], field: &str) -> Vec<String> {
    rows.iter().map(|row| row[field].as_str().expect("an id").to_owned()).collect()
}

/// Returns a page of the active orders of so many.
async fn page(producer: &Producer, limit: &str, after: Option<&str>) -> Reply {
    let mut headers = vec![("Limit", limit)];
    headers.extend(after.map(|after| ("After", after)));
    let reply = producer.active_orders(&headers).await;
    assert_eq!(reply.status, 200, "{}", reply.body());
    reply
}

pub fn next_of(body: &Value) -> Option<String> {
    body["next"].as_str().map(str::to_owned)
}

/// An order of some 58 KiB, of 100 items.
fn large() -> Value {
    let item =
        json!({"sku": "s", "name": "n", "unit_price": 1, "quantity": 1, "note": "x".repeat(500)});
    json!({"currency": "EUR", "items": vec![item; 100]})
}

#[tokio::test]
async fn s7_08_pages_meet_each_order_that_stays_once_while_others_come_and_go() {
    const STAYING: usize = 40;
    let fleet = TestFleet::start().await;
    let producer = fleet.producer().await;
    // Orders that stay stand between such that go.
    for n in 0..STAYING {
        place(&producer, &format!("stays{n}")).await;
        place(&producer, &format!("goes{n}")).await;
    }
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    let (mut after, mut pages) = (None, 0);
    let resume = loop {
        let body = page(&producer, "7", after.as_deref()).await.body();
        assert!(rows(&body).len() <= 7);
        for order in named(&rows(&body), "order") {
            *seen.entry(order).or_default() += 1;
        }
        // Between two pages some go, on pages before and after, some come, and some change.
        step(&producer, &format!("goes{pages}"), "cancel").await;
        step(&producer, &format!("goes{}", STAYING - 1 - pages), "cancel").await;
        place(&producer, &format!("comes{pages}")).await;
        step(&producer, &format!("stays{pages}"), "accept").await;
        pages += 1;
        after = next_of(&body);
        assert_eq!(body["more"] == true, after.is_some());
        if after.is_none() {
            break body["resume"].as_str().expect("a position").to_owned();
        }
    };
    assert!((7..14).contains(&pages), "{pages} pages");
    assert!(seen.values().all(|times| *times == 1), "{seen:?}");
    for n in 0..STAYING {
        assert!(seen.contains_key(&format!("stays{n}")), "stays{n} in {seen:?}");
    }
    // The position of the last page is the moment of the first: the changes since lead to the list
    // of now.
    let changes = producer.active_orders(&[("Resume", &resume)]).await;
    let told = changes.body()["changes"].as_array().expect("changes").clone();
    let of = |row: &Value| row["order"].as_str().expect("an order").to_owned();
    for row in &told {
        if row["change"]["kind"] == "removed" {
            seen.remove(&of(row));
        } else {
            seen.insert(of(row), 1);
        }
    }
    let fresh = producer.active_orders(&[]).await;
    let mut expected = named(&rows(&fresh.body()), "order");
    expected.sort();
    assert_eq!(seen.into_keys().collect::<Vec<_>>(), expected);
    assert_eq!(changes.etag, fresh.etag);

    // Over HTTP each page links to the next one.
    let http = fleet.http_client().await;
    let staff = with_roles(&fleet, &http, "sam", &["staff"]).await;
    let mut path = "active-orders?limit=25".to_owned();
    let mut linked = Vec::new();
    loop {
        let response = staff.get(&path, &[]).await;
        assert_eq!(response.status, 200, "{}", response.body());
        linked.extend(rows(&response.body()));
        let link = response.header("link");
        assert_eq!(link.is_empty(), response.body()["next"].is_null());
        if link.is_empty() {
            break;
        }
        let next = link.strip_prefix("</v1/t1/").and_then(|l| l.strip_suffix(">; rel=\"next\""));
        path = next.expect("a link").to_owned();
    }
    assert_eq!(json!(linked), rows_in_sql(&fleet).await);

    // What no page has named is refused, as is a page of changes, or of another tenant's list.
    let place = next_of(&page(&producer, "1", None).await.body()).expect("a place");
    let other = Producer::new(fleet.connect("t2-producer").await, "t2");
    assert_eq!(other.active_orders(&[("After", &place)]).await.code(), "bad_header");
    let bad: &[&[(&str, &str)]] = &[
        &[("After", "")],
        &[("After", "o1")],
        &[("After", &resume)],
        &[("Limit", "0")],
        &[("Limit", "1001")],
        &[("After", &place), ("Resume", &resume)],
    ];
    for headers in bad {
        let refused = producer.active_orders(headers).await;
        assert_eq!((refused.status, refused.code().as_str()), (400, "bad_header"), "{headers:?}");
    }
    let refused = staff.get("active-orders?after=nonsense", &[]).await;
    assert_eq!((refused.status, refused.body()["param"].clone()), (400, json!("after")));
    fleet.finish().await;
}

#[tokio::test]
async fn s7_08_no_page_is_older_than_an_outcome_while_nothing_is_projected() {
    let fleet = TestFleet::start().await;
    let producer = fleet.producer().await;
    for n in 0..6 {
        place(&producer, &format!("o{n}")).await;
    }
    let first = page(&producer, "3", None).await;
    let after = next_of(&first.body()).expect("a second page");
    let second = page(&producer, "3", Some(&after)).await;
    assert_eq!(named(&rows(&second.body()), "order"), ["o2", "o1", "o0"]);
    assert_ne!(first.etag, second.etag);
    let etag = |reply: &Reply| reply.etag.clone().expect("an ETag");
    let known = async |after: Option<&str>, etag: &str| {
        let mut headers = vec![("Limit", "3"), ("If-None-Match", etag)];
        headers.extend(after.map(|after| ("After", after)));
        producer.active_orders(&headers).await
    };
    assert_eq!(known(None, &etag(&first)).await.status, 304);
    assert_eq!(known(Some(&after), &etag(&second)).await.status, 304);

    // No projector writes, the bucket is empty, and the handler that commits shows nothing.
    let _projector = fleet.fail.arm("payment-projector.before_projection");
    let _relay = fleet.fail.arm("outbox-relay.before_publish");
    let operator = fleet.connect("operator").await;
    let purge = operator.request("$JS.API.STREAM.PURGE.KV_active_orders", "".into());
    purge.await.expect("purged");
    let handler = fleet.fail.arm("command-handler.after_commit");
    let accept = {
        let producer = producer.clone();
        tokio::spawn(async move { producer.send_as("k1", "order.o1.accept", json!({})).await })
    };
    handler.reached().await;
    let outcome = producer.request("q.t1.outcome.k1", &[("Wait-Ms", "9000")], b"").await;
    assert_eq!(outcome.expect("an answer").body()["status"], 200);
    assert_eq!(known(None, &etag(&first)).await.status, 304, "nothing happened on this page");
    let changed = known(Some(&after), &etag(&second)).await;
    assert_eq!(changed.status, 200, "never 304");
    assert_eq!(rows(&changed.body())[1]["status"], "accepted");
    fleet.fail.disarm("command-handler.after_commit");
    assert_eq!(accept.await.expect("it ends").status, 200);

    // What is paid is on its page although nobody has projected it.
    let pay = json!({"target": {"order": "o0"}, "method": "cash"});
    producer.done("payment.p1.initiate", pay).await;
    producer.done("payment.p1.confirm_cash", json!({"amount": 500, "currency": "EUR"})).await;
    let paid = known(Some(&after), &etag(&changed)).await;
    assert_eq!((paid.status, &rows(&paid.body())[2]["due"]), (200, &json!(0)));
    // An order that goes makes another page of both, where one is read from the beginning.
    step(&producer, "o5", "cancel").await;
    let moved = known(None, &etag(&first)).await;
    assert_eq!(named(&rows(&moved.body()), "order"), ["o4", "o3", "o2"]);
    fleet.fail.disarm("payment-projector.before_projection");
    fleet.fail.disarm("outbox-relay.before_publish");
    // What the bucket lost comes back.
    until_healed(&fleet).await;
    fleet.finish().await;
}

#[tokio::test]
async fn s7_08_large_orders_take_no_more_room_than_others_and_a_stream_brings_all_pages() {
    let fleet = TestFleet::start().await;
    let producer = fleet.producer().await;
    place(&producer, "small").await;
    // More than fifteen of them would have filled a list.
    for n in 0..30 {
        producer.done(&format!("order.large{n}.place"), large()).await;
    }
    let body = producer.active_orders(&[]).await.body();
    assert_eq!((rows(&body).len(), &body["next"]), (31, &Value::Null));
    assert_eq!(rows(&body)[30]["order"], "small", "it stays on the screen");
    assert_eq!(rows(&body)[30]["items_left_out"], Value::Null);
    for row in &rows(&body)[..30] {
        assert!(row.to_string().len() <= 8 * 1024);
        let (shown, left_out) = (row["items"].as_array().expect("items").len(), 100);
        assert_eq!(row["items_left_out"], json!(left_out - shown));
        assert!(shown > 5 && row["total"] == 100);
        let order = format!("order.{}", row["order"].as_str().expect("an id"));
        let view = producer.view(&order, None).await.body();
        let items = view["core"]["items"].as_array().expect("items");
        assert_eq!((items.len(), &json!(items[..shown])), (100, &row["items"]));
    }
    fleet.until_idle().await;
    let pushed = check::kv(&fleet, "active_orders", "t1.large0.core").await.expect("a row");
    assert_eq!(pushed["items_left_out"], rows(&body)[29]["items_left_out"]);

    // So many that they take two pages: a stream brings both, and goes on with changes.
    join_all((0..110).map(async |n| {
        producer.done(&format!("order.more{n}.place"), large()).await;
    }))
    .await;
    let http = fleet.http_client().await;
    let staff = with_roles(&fleet, &http, "sam", &["staff"]).await;
    let mut events = staff.stream("active-orders/stream", None).await.expect("a stream");
    let mut board = StreamedOrders::default();
    let mut kinds = Vec::new();
    while board.rows().len() < 141 {
        let event = timeout(PATIENCE, events.next()).await.expect("in time").expect("an event");
        board.apply(&event, &events.id);
        kinds.push(event.kind);
    }
    assert_eq!(kinds, ["snapshot", "more"]);
    step(&producer, "small", "accept").await;
    while !board.has("small", 2) {
        let event = timeout(PATIENCE, events.next()).await.expect("in time").expect("an event");
        board.apply(&event, &events.id);
    }
    let last = events.id.clone();
    drop(events);
    step(&producer, "small", "prepare").await;
    let mut events = staff.stream("active-orders/stream", Some(&last)).await.expect("a stream");
    while !board.has("small", 3) {
        let event = timeout(PATIENCE, events.next()).await.expect("in time").expect("an event");
        board.apply(&event, &events.id);
    }
    assert_eq!((board.snapshots, board.resets, board.rows().len()), (1, 0, 141));

    // So does the library client, which asks for page after page.
    let client = Client::new(fleet.connect("t1-producer").await, PATIENCE);
    let tenant = Token::new("t1").expect("a token");
    let watch = client.watch_active_orders(&tenant, ActiveOrders::default()).await;
    let mut watch = watch.expect("a watch").polling_every(Duration::from_millis(50));
    while watch.rows().len() < 141 {
        timeout(PATIENCE, watch.next()).await.expect("in time").expect("a change");
    }
    step(&producer, "small", "ready").await;
    let is_ready = |watch: &brigade_contracts::client::OrdersWatch| {
        watch.rows().iter().any(|row| row.core.version == 4)
    };
    while !is_ready(&watch) {
        timeout(PATIENCE, watch.next()).await.expect("in time").expect("a change");
    }
    assert_eq!(watch.rows().len(), 141, "none is taken for one that has ended");
    fleet.finish().await;
}

/// Opens a cart of this user over HTTP, with a soup in it.
async fn cart(who: &HttpClient, user: &str, cart: &str) {
    let open = json!({"kind": "menu", "owner": user, "currency": "EUR"});
    assert_eq!(who.post(&format!("cart/{cart}/open"), &open).await.status, 201);
    assert_eq!(
        who.post(&format!("cart/{cart}/add_item"), &wanted("i1", "soup", 1)).await.status,
        200
    );
}

async fn check_out(who: &HttpClient, cart: &str) -> (u16, String) {
    let payload = json!({"order_id": format!("of-{cart}")});
    let response = who.post(&format!("cart/{cart}/check_out"), &payload).await;
    (response.status, response.code())
}

#[tokio::test]
async fn s7_08_many_orders_of_one_customer_are_refused_while_others_order() {
    const MOST: usize = 20;
    let fleet = TestFleet::start().await;
    let (producer, http) = (fleet.producer().await, fleet.http_client().await);
    assert_eq!(producer.send("product.soup.set", product("Soup", 500)).await.status, 201);
    let [eve, ada] = [http.register_and_log_in("eve").await, http.register_and_log_in("ada").await];
    let staff = with_roles(&fleet, &http, "sam", &["staff"]).await;
    join_all((0..30).map(|n| {
        let eve = eve.clone();
        async move { cart(&eve, "eve", &format!("e{n}")).await }
    }))
    .await;
    // All at once: exactly so many are made, whichever.
    let carts: Vec<String> = (0..30).map(|n| format!("e{n}")).collect();
    let answers = join_all(carts.iter().map(|cart| check_out(&eve, cart))).await;
    let refused: Vec<&String> = carts
        .iter()
        .zip(&answers)
        .filter_map(|(cart, answer)| {
            (*answer == (409, "too_many_orders".to_owned())).then_some(cart)
        })
        .collect();
    let done = answers.iter().filter(|answer| answer.0 == 200).count();
    assert_eq!((done, refused.len()), (MOST, 30 - MOST), "{answers:?}");
    // Others order, the restaurant does so for her, and so does its own program.
    cart(&ada, "ada", "a1").await;
    assert_eq!(check_out(&ada, "a1").await.0, 200);
    assert_eq!(check_out(&staff, refused[0]).await.0, 200);
    let by_program = json!({"order_id": format!("of-{}", refused[1])});
    producer.done(&format!("cart.{}.check_out", refused[1]), by_program).await;
    let refusal = (409, "too_many_orders".to_owned());
    assert_eq!(check_out(&eve, refused[2]).await, refusal);
    // 22 wait. Those that are accepted, cancelled or paid make room.
    let orders: Vec<String> = carts
        .iter()
        .zip(&answers)
        .filter(|(_, answer)| answer.0 == 200)
        .map(|(cart, _)| format!("of-{cart}"))
        .collect();
    assert_eq!(staff.post(&format!("order/{}/accept", orders[0]), &json!({})).await.status, 200);
    let reason = json!({"reason": "too much"});
    assert_eq!(eve.post(&format!("order/{}/cancel", orders[1]), &reason).await.status, 200);
    assert_eq!(check_out(&eve, refused[2]).await, refusal);
    let pay = json!({"target": {"order": orders[2]}, "method": "cash"});
    assert_eq!(eve.post("payment/p1/initiate", &pay).await.status, 201);
    let cash = json!({"amount": 500, "currency": "EUR"});
    assert_eq!(staff.post("payment/p1/confirm_cash", &cash).await.status, 200);
    assert_eq!(check_out(&eve, refused[2]).await.0, 200);
    assert_eq!(check_out(&eve, refused[3]).await, refusal);
    // What is paid beforehand needs no room.
    let pay = json!({"target": {"cart": refused[3]}, "method": "cash"});
    assert_eq!(eve.post("payment/p2/initiate", &pay).await.status, 201);
    assert_eq!(staff.post("payment/p2/confirm_cash", &cash).await.status, 200);
    assert_eq!(check_out(&eve, refused[3]).await.0, 200);
    fleet.finish().await;
}
