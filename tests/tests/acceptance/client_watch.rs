//! S4: the library client keeps the active list and views, whatever is lost on the way.

use std::{collections::BTreeMap, time::Duration};

use brigade_contracts::{
    Address, Aggregate, Token,
    client::{ActiveOrders, Client, OrderListChange, OrdersWatch, ViewWatch},
};
use brigade_tests::{
    NO_PUSH_USER, Producer, SUPERUSER, TestFleet, producer::placed, proxy::TcpProxy,
};
use futures::{FutureExt, StreamExt};
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::healing::until_healed;

const OFTEN: Duration = Duration::from_millis(20);
/// Longer than any test.
const NEVER: Duration = Duration::from_secs(3600);
/// Ends a test that hangs.
const PATIENCE: Duration = Duration::from_secs(90);

async fn place(producer: &Producer, order: &str) {
    let what = format!("order.{order}.place");
    let reply = producer
        .send_until_decided(&format!("{order}-place"), &what, placed(&[("Soup", 500, 1)]))
        .await;
    assert_eq!(reply.status, 201, "{}", reply.body());
}

async fn step(producer: &Producer, order: &str, verb: &str) {
    let payload = if verb == "cancel" { json!({"reason": "guest left"}) } else { json!({}) };
    let what = format!("order.{order}.{verb}");
    let reply = producer.send_until_decided(&format!("{order}-{verb}"), &what, payload).await;
    assert_eq!(reply.status, 200, "{verb} {order}: {}", reply.body());
}

async fn complete(producer: &Producer, order: &str) {
    for verb in ["accept", "prepare", "ready", "serve", "complete"] {
        step(producer, order, verb).await;
    }
}

async fn watch(client: &Client, list: ActiveOrders, every: Duration) -> OrdersWatch {
    let tenant = Token::new("t1").unwrap();
    client.watch_active_orders(&tenant, list).await.unwrap().polling_every(every)
}

fn client(nats: async_nats::Client) -> Client {
    Client::new(nats, Duration::from_secs(30))
}

/// Reads the watch until it equals a fresh query. Returns the last change of each order meanwhile.
async fn until_same(watch: &mut OrdersWatch, producer: &Producer) -> BTreeMap<String, Value> {
    let fresh = producer.active_orders(&[]).await.body()["rows"].clone();
    let mut told = BTreeMap::new();
    let shown = |watch: &OrdersWatch| {
        let rows = watch.rows();
        json!(rows.iter().map(|row| json!(row.whole())).collect::<Vec<_>>())
    };
    loop {
        // What the list shows already is told without waiting.
        let news = match watch.next().now_or_never() {
            Some(news) => news.unwrap(),
            None if shown(watch) == fresh => return told,
            None => {
                let news = timeout(PATIENCE, watch.next()).await;
                news.unwrap_or_else(|_| panic!("{} is not {fresh}", shown(watch))).unwrap()
            }
        };
        let (order, what) = match news {
            OrderListChange::Added(row) => (row.core.order, json!("added")),
            OrderListChange::Updated(row) => (row.core.order, json!(row.core.change.fields)),
            OrderListChange::Removed { order, reason } => (order, json!({ "removed": reason })),
        };
        told.insert(order.to_string(), what);
    }
}

fn told(news: &[(&str, Value)]) -> BTreeMap<String, Value> {
    news.iter().map(|(order, what)| ((*order).to_owned(), what.clone())).collect()
}

#[tokio::test]
async fn s4_02_pushes_alone_keep_the_clients_list() {
    let fleet = TestFleet::start().await;
    let producer = fleet.producer().await;
    place(&producer, "o1").await;
    let client = client(fleet.connect("t1-watcher").await);
    let mut watch = watch(&client, ActiveOrders::default(), NEVER).await;
    until_same(&mut watch, &producer).await;
    for order in ["o2", "o3"] {
        place(&producer, order).await;
    }
    step(&producer, "o1", "accept").await;
    let news = until_same(&mut watch, &producer).await;
    assert_eq!(news["o1"], json!(["status"]));
    // A key that expires is pushed empty; that and nonsense change nothing.
    let superuser = fleet.connect(SUPERUSER).await;
    for (key, payload) in [("o1.core", ""), ("o1.payment", ""), ("o2.core", "{}"), ("o2.x", "?")] {
        let live = format!("live.active_orders.t1.{key}");
        superuser.publish(live, payload.into()).await.unwrap();
    }
    superuser.flush().await.unwrap();
    step(&producer, "o2", "cancel").await;
    complete(&producer, "o3").await;
    let news = until_same(&mut watch, &producer).await;
    let removed = |reason| json!({ "removed": reason });
    assert_eq!(news, told(&[("o2", removed("guest left")), ("o3", removed("completed"))]));
    fleet.finish().await;
}

#[tokio::test]
async fn s4_07_with_every_push_lost_the_poll_alone_converges() {
    let fleet = TestFleet::start().await;
    let producer = fleet.producer().await;
    let nats = fleet.connect(NO_PUSH_USER).await;
    let mut pushes = nats.subscribe("live.active_orders.t1.>").await.unwrap();
    let client = client(nats);
    let mut watch = watch(&client, ActiveOrders::default(), OFTEN).await;
    for order in ["o1", "o2", "o3"] {
        place(&producer, order).await;
    }
    until_same(&mut watch, &producer).await;
    step(&producer, "o1", "accept").await;
    step(&producer, "o2", "cancel").await;
    complete(&producer, "o3").await;
    place(&producer, "o4").await;
    let news = until_same(&mut watch, &producer).await;
    let expected = [
        ("o1", json!(["status"])),
        ("o2", json!({"removed": "guest left"})),
        ("o3", json!({"removed": "completed"})),
        ("o4", json!("added")),
    ];
    assert_eq!(news, told(&expected));
    assert!(pushes.next().now_or_never().flatten().is_none(), "nothing was pushed to it");
    fleet.finish().await;
}

#[tokio::test]
async fn s4_08_a_client_that_was_offline_resumes_without_missing_a_change() {
    let mut fleet = TestFleet::start().await;
    let producer = fleet.producer().await;
    let proxy = TcpProxy::to(fleet.nats.port()).await.unwrap();
    let client = client(fleet.connect_through(&proxy, "t1-watcher").await);
    for order in ["o1", "o2", "o3"] {
        place(&producer, order).await;
    }
    let mut watch = watch(&client, ActiveOrders::default(), NEVER).await;
    until_same(&mut watch, &producer).await;

    proxy.shut();
    step(&producer, "o1", "accept").await;
    step(&producer, "o2", "cancel").await;
    complete(&producer, "o3").await;
    place(&producer, "o4").await;
    // One that came and went meanwhile.
    place(&producer, "o5").await;
    step(&producer, "o5", "cancel").await;
    proxy.open();
    let news = until_same(&mut watch, &producer).await;
    let expected = [
        ("o1", json!(["status"])),
        ("o2", json!({"removed": "guest left"})),
        ("o3", json!({"removed": "completed"})),
        ("o4", json!("added")),
    ];
    assert_eq!(news, told(&expected));

    // The server dies as well, and is back before the client is.
    proxy.shut();
    step(&producer, "o1", "prepare").await;
    fleet.nats.kill().await;
    fleet.nats.restart().await.unwrap();
    step(&producer, "o4", "cancel").await;
    place(&producer, "o6").await;
    proxy.open();
    let news = until_same(&mut watch, &producer).await;
    let expected = [
        ("o1", json!(["status"])),
        ("o4", json!({"removed": "guest left"})),
        ("o6", json!("added")),
    ];
    assert_eq!(news, told(&expected));
    until_healed(&fleet).await;
    fleet.finish().await;
}

#[tokio::test]
async fn s4_08_a_client_with_an_expired_position_gets_all_rows() {
    let fleet = TestFleet::start().await;
    let producer = fleet.producer().await;
    let client = client(fleet.connect("t1-watcher").await);
    for order in ["o1", "o2"] {
        place(&producer, order).await;
    }
    let mut first = watch(&client, ActiveOrders::default(), NEVER).await;
    until_same(&mut first, &producer).await;
    // What a program keeps when it ends, and reads an hour later.
    let mut kept = json!(first.list());
    drop(first);
    let resume = kept["at"]["resume"].as_str().unwrap().to_owned();
    let mut words: Vec<_> = resume.split('.').map(str::to_owned).collect();
    words[4] = format!("{:x}", i64::from_str_radix(&words[4], 16).unwrap() - 3_600_000);
    let old = words.join(".");
    kept["at"]["resume"] = json!(old);
    step(&producer, "o1", "cancel").await;
    step(&producer, "o2", "accept").await;
    place(&producer, "o3").await;
    let answer = producer.active_orders(&[("Resume", &old)]).await.body();
    assert_eq!(answer["reset"], true);

    let mut again = watch(&client, serde_json::from_value(kept).unwrap(), NEVER).await;
    let shown: Vec<_> = again.rows().iter().map(|row| row.core.order.to_string()).collect();
    assert_eq!(shown, ["o2", "o1"], "the last list, at once");
    let news = until_same(&mut again, &producer).await;
    let expected =
        [("o1", json!({"removed": null})), ("o2", json!(["status"])), ("o3", json!("added"))];
    assert_eq!(news, told(&expected));
    fleet.finish().await;
}

/// Follows the view of an order to a version. Returns the versions on the way.
async fn follow(watch: &mut ViewWatch, to: u64) -> Vec<u64> {
    let mut versions = Vec::new();
    while versions.last() != Some(&to) {
        let view = timeout(PATIENCE, watch.next()).await.expect("a newer view").unwrap();
        assert_eq!(view.body["version"], view.version.version);
        versions.push(view.version.version);
    }
    versions
}

#[tokio::test]
async fn a_watched_view_keeps_up_by_pushes_and_by_polls_and_never_goes_down() {
    let fleet = TestFleet::start().await;
    let producer = fleet.producer().await;
    let order = Address::new("t1", Aggregate::Order, "o1").unwrap();
    let proxy = TcpProxy::to(fleet.nats.port()).await.unwrap();
    let hearing = client(fleet.connect_through(&proxy, "t1-watcher").await);
    let deaf = client(fleet.connect(NO_PUSH_USER).await);
    let mut pushed = hearing.watch_view(&order).await.unwrap().polling_every(NEVER);
    let mut polled = deaf.watch_view(&order).await.unwrap().polling_every(OFTEN);
    assert!(pushed.next().now_or_never().is_none(), "there is none yet");
    place(&producer, "o1").await;
    step(&producer, "o1", "accept").await;
    for watch in [&mut pushed, &mut polled] {
        let versions = follow(watch, 2).await;
        assert!(versions.is_sorted_by(|a, b| a < b), "{versions:?}");
    }
    proxy.shut();
    step(&producer, "o1", "prepare").await;
    proxy.open();
    for watch in [&mut pushed, &mut polled] {
        assert_eq!(follow(watch, 3).await, [3]);
    }
    fleet.finish().await;
}
