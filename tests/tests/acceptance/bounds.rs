//! S5-03: every collection has a bound and a refusal beyond it, and an event that the stream
//! refuses holds up nobody.

use brigade::workers::outbox_relay::RelayMetrics;
use std::collections::BTreeMap;

use brigade::operations::dead_letters::{DeadLetters, Filter};
use brigade_contracts::{Address, Aggregate, WorkerName, shard_of};
use brigade_tests::{
    Producer, Town, check,
    producer::{item, placed},
    until,
};
use futures::future::join_all;
use serde_json::{Value, json};

fn initiate(target: Value, amount: i64) -> Value {
    json!({ "target": target, "method": "card", "amount": amount })
}

/// Sends commands at once. Returns how many were answered with which code.
async fn codes(producer: &Producer, commands: Vec<(String, Value)>) -> BTreeMap<String, usize> {
    let send = |(what, payload): (String, Value)| async move {
        producer.send(&what, payload).await.code()
    };
    let mut codes = BTreeMap::new();
    for code in join_all(commands.into_iter().map(send)).await {
        *codes.entry(code).or_default() += 1;
    }
    codes
}

fn counted(codes: &[(&str, usize)]) -> BTreeMap<String, usize> {
    codes.iter().map(|(code, count)| ((*code).to_owned(), *count)).collect()
}

async fn entries_of(producer: &Producer, what: &str) -> usize {
    let view = producer.view(what, None).await.body();
    view["payments"]["payments"].as_array().expect("payments").len()
}

#[tokio::test]
async fn s5_03_what_is_beyond_a_bound_is_refused() {
    let town = Town::start().await;
    let producer = town.producer().await;
    let [first, second] = [1, 2].map(|n| json!({ "label": n.to_string(), "seats": 4 }));
    producer.done("table.t1.register", first).await;
    producer.done("table.t2.register", second).await;

    // Payments: those that are open or have money in them.
    producer.done("order.o1.place", placed(&[("Soup", 100_000, 1)])).await;
    let pay = |n: usize| (format!("payment.p{n}.initiate"), initiate(json!({ "order": "o1" }), 1));
    let told = codes(&producer, (0..60).map(pay).collect()).await;
    assert_eq!(told, counted(&[("created", 50), ("too_many_payments", 10)]));
    assert_eq!(entries_of(&producer, "order.o1").await, 50);

    // Orders of a turn.
    producer.done("table.t1.open_turn", json!({ "turn_id": "u1" })).await;
    let mut at = placed(&[("Soup", 100, 1)]);
    at["table_id"] = json!("t1");
    let place = |n: usize| (format!("order.of-turn-{n}.place"), at.clone());
    let told = codes(&producer, (0..205).map(place).collect()).await;
    assert_eq!(told, counted(&[("created", 200), ("too_many_orders", 5)]));

    // Open carts of an owner, and of a session; whichever handlers and batches they come to.
    let owned = json!({ "kind": "menu", "owner": "ada", "currency": "EUR" });
    let open = |n: usize| (format!("cart.owned-{n}.open"), owned.clone());
    let told = codes(&producer, (0..55).map(open).collect()).await;
    assert_eq!(told, counted(&[("created", 50), ("too_many_carts", 5)]));
    let open = |n: usize| {
        let open = json!({ "kind": "menu", "owner": format!("user-{n}"), "session": "s1",
                           "currency": "EUR" });
        (format!("cart.of-session-{n}.open"), open)
    };
    let told = codes(&producer, (0..55).map(open).collect()).await;
    assert_eq!(told, counted(&[("created", 50), ("too_many_carts", 5)]));
    let guest = json!({ "kind": "menu", "owner": "s2", "session": "s2", "currency": "EUR" });
    producer.done("cart.guest.open", guest).await;
    let claimed = producer.refused("cart.guest.claim", json!({ "user": "ada" })).await;
    assert_eq!(claimed, (409, "too_many_carts".to_owned()));

    // 64 KiB of a cart.
    producer.team_cart("large", "bob", &[]).await;
    let text = "\u{1f372}".repeat(200);
    let mut fits = 0;
    let refusal = loop {
        let mut large = item(&format!("i{fits}"), 1, 1);
        (large["sku"], large["name"]) = (json!(text), json!(text));
        let reply = producer.send("cart.large.add_item", large).await;
        if reply.status != 200 {
            break reply.code();
        }
        fits += 1;
    };
    assert_eq!(refusal, "too_large");
    let view = producer.view("cart.large", None).await.body();
    assert!((60_000..=65_536).contains(&view["core"].to_string().len()), "{fits} items");

    // Control characters, by both doors and over HTTP.
    let reason = |text: &str| json!({ "reason": text });
    for bad in ["a\u{1b}]0;x\u{7}", "a\nb", "a\u{9b}b", "a\u{202e}b", "a\u{2066}b"] {
        let refused = producer.refused("cart.large.abandon", reason(bad)).await;
        assert_eq!(refused, (422, "bad_text".to_owned()), "{bad:?}");
    }
    producer.publish("dark", "cart.large.abandon", reason("a\u{85}b")).await;
    let outcome = producer.request("q.t1.outcome.dark", &[("Wait-Ms", "20000")], b"").await;
    assert_eq!(outcome.unwrap().body()["code"], "bad_text");
    town.finish().await;
}

/// A customer who begins to pay a cent, and gives it up, again and again.
#[tokio::test]
async fn s5_03_payments_of_one_cent_without_end_stay_in_their_cart() {
    let town = Town::start().await;
    let producer = town.producer().await;
    producer.cart_of("c1", "menu", "ada", &[("i1", 100_000, 1)]).await;
    let target = || json!({ "cart": "c1" });
    for wave in 0..8 {
        // Within a wave each is begun before any is given up.
        let named = |n: usize| format!("payment.p{wave}-{n}");
        let begin = |n: usize| (format!("{}.initiate", named(n)), initiate(target(), 1));
        let told = codes(&producer, (0..50).map(begin).collect()).await;
        assert_eq!(told, counted(&[("created", 50)]));
        let give_up = |n: usize| (format!("{}.cancel", named(n)), json!({ "reason": "" }));
        let told = codes(&producer, (0..50).map(give_up).collect()).await;
        assert_eq!(told, counted(&[("ok", 50)]));
    }
    assert_eq!(entries_of(&producer, "cart.c1").await, 50);
    // The money comes in, all the same, for the first one, which nobody sees any more.
    assert_eq!(producer.result("p0-0", "captured", "g1", 1).await.status, 200);
    assert_eq!(producer.payment_status("p0-0").await, "late_captured");
    producer.initiate("last", "c1").await;
    assert_eq!(producer.result("last", "captured", "g2", 100_000).await.status, 200);
    let view = producer.view("cart.c1", None).await.body();
    assert_eq!((&view["due"], &view["payments"]["paid"]), (&json!(0), &json!(100_000)));
    let largest: i32 =
        sqlx::query_scalar("select max(octet_length(payload::text)) from brigade.events")
            .fetch_one(&town.sql)
            .await
            .unwrap();
    assert!(largest < 16 * 1024, "{largest}");
    town.finish().await;
}

/// Makes the first event of a cart too large for the stream, and whole again.
async fn spoil(town: &Town, cart: &str, spoilt: bool) {
    let padded = if spoilt { 950_000 } else { 0 };
    sqlx::query(
        "update brigade.events
         set payload = (payload::jsonb || jsonb_build_object('padding', repeat('x', $2)))::json
         where id = $1 and version = 1",
    )
    .bind(cart)
    .bind(padded)
    .execute(&town.sql)
    .await
    .unwrap();
}

/// Carts whose ids were chosen so that there is one in each shard.
#[tokio::test]
async fn s5_03_an_event_that_the_stream_refuses_is_parked_and_holds_up_nobody() {
    // It would ask for events that are late to be published again.
    let mut town = Town::start_without(WorkerName::CacheVerifier).await;
    let producer = town.producer().await;
    town.take(WorkerName::OutboxRelay).stop().await;
    let in_shard = |shard: u8| {
        let cart = |n: usize| Address::new("t1", Aggregate::Cart, &format!("c{n}")).unwrap();
        (0..).map(cart).find(|cart| shard_of(cart) == shard).unwrap().id.to_string()
    };
    let carts: Vec<String> = (0..16).map(in_shard).collect();
    for cart in &carts {
        producer.team_cart(cart, &format!("{cart}-owner"), &[]).await;
        spoil(&town, cart, true).await;
        producer.done(&format!("cart.{cart}.join"), json!({ "user": "bob" })).await;
    }
    // Of others, in the same shards.
    let other = Producer::new(town.connect("t2-producer").await, "t2");
    for n in 0..32 {
        other.team_cart(&format!("other{n}"), &format!("owner{n}"), &[]).await;
    }
    town.run(WorkerName::OutboxRelay).await;
    town.until_idle().await;
    let stored: i64 = sqlx::query_scalar("select count(*) from brigade.events")
        .fetch_one(&town.sql)
        .await
        .unwrap();
    assert_eq!(stored, 64);
    assert_eq!(check::raw_events(&town).await.len(), 48);
    assert_eq!(town.metrics.group::<RelayMetrics>().events_parked.get(), 16);
    for cart in &carts {
        let view = producer.view(&format!("cart.{cart}"), None).await.body();
        assert_eq!(view["version"], 2, "{cart}");
    }

    // An operator mends one, and it goes its way.
    let js = async_nats::jetstream::new(town.connect("operator").await);
    let desk = DeadLetters::open(js, town.sql.clone()).await.unwrap();
    let letters = desk.list(&Filter::default()).await.unwrap();
    assert_eq!(letters.len(), 16);
    let of_first = letters
        .iter()
        .find(|letter| letter.headers.get("ce-subject").is_some_and(|id| id.as_str() == carts[0]));
    let letter = of_first.unwrap();
    assert_eq!(letter.worker, "outbox-relay");
    let payload = desk.payload(letter.number).await.unwrap();
    assert!(payload.len() > 950_000 && letter.reason.contains("exceeds"), "{}", letter.reason);
    spoil(&town, &carts[0], false).await;
    desk.replay(letter, "op1").await.unwrap();
    until("the mended event", || async {
        (check::raw_events(&town).await.len() == 49).then_some(())
    })
    .await;
    town.until_idle().await;
    check::kv_equals_sql(&town).await;
}
