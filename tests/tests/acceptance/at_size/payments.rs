//! Payments without end, on one cart and on carts whose ids were chosen.

use std::{sync::Arc, time::Instant};

use brigade_contracts::{Address, shard_of};
use brigade_tests::{Producer, TestFleet, check};
use futures::future::join_all;
use serde_json::json;

use super::{Nice, beside, client, figure, quiet, size};

/// Payments of one cent on one cart, then as many on the others together: enough for a thousand
/// requests of another tenant meanwhile.
const PAYMENTS: usize = 20_000;
/// Carts whose events go through one shard.
const CARTS: usize = 16;
/// As many as a cart may have open.
const WAVE: usize = 50;

/// Ids of carts of `t1` of one shard.
fn ids_of_one_shard() -> Vec<String> {
    let of_shard = |id: &String| {
        shard_of(&Address::new("t1", brigade_contracts::Aggregate::Cart, id).unwrap()) == 0
    };
    (0..).map(|n| format!("c{n}")).filter(of_shard).take(CARTS).collect()
}

/// Begins payments of a cent and gives each up, as many at once as a cart may have open.
async fn pay(producer: &Producer, cart: &str, payments: usize) {
    for wave in 0..payments.div_ceil(WAVE) {
        let named = |n: usize| format!("payment.{cart}-{wave}-{n}");
        let begun = (0..WAVE).map(|n| {
            let cent = json!({ "target": { "cart": cart }, "method": "card", "amount": 1 });
            insisted(producer, format!("{}.initiate", named(n)), cent)
        });
        join_all(begun).await;
        let given_up = (0..WAVE)
            .map(|n| insisted(producer, format!("{}.cancel", named(n)), json!({ "reason": "" })));
        join_all(given_up).await;
    }
}

/// Lets a flooding client pay so often on each of these carts, all of them at once.
async fn flood(fleet: &Arc<TestFleet>, carts: Vec<String>, payments: usize) {
    let flooding = client(fleet, Nice::Flood, move |fleet| async move {
        let t1 = fleet.producer().await;
        join_all(carts.iter().map(|cart| pay(&t1, cart, payments))).await;
    });
    flooding.await;
}

async fn insisted(producer: &Producer, what: String, payload: serde_json::Value) {
    let done = producer.send_until_decided(&what.replace('.', "-"), &what, payload).await;
    assert!(done.status < 300, "{what}: {}", done.body());
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes; run by hand: tens of thousands of payments"]
async fn s5_08_payments_without_end_hold_up_no_other() {
    let payments = size("BRIGADE_TEST_PAYMENTS", PAYMENTS);
    let fleet = Arc::new(TestFleet::start().await);
    let t1 = fleet.producer().await;
    let ids = ids_of_one_shard();
    for (n, id) in ids.iter().enumerate() {
        t1.cart_of(id, "menu", &format!("owner{n}"), &[("i1", 100_000, 1)]).await;
    }
    let quiet = quiet(&fleet).await;
    let began = Instant::now();
    let (times, ()) = beside(&fleet, "one", flood(&fleet, ids[..1].to_vec(), payments)).await;
    let done = payments.div_ceil(WAVE) * WAVE;
    figure(&format!("{done} payments on one cart took {:.0?}", began.elapsed()));
    times.print("beside one cart");
    times.compare(&quiet);

    let (each, began) = (payments.div_ceil(CARTS), Instant::now());
    let paid = async {
        flood(&fleet, ids[1..].to_vec(), each).await;
        fleet.until_relayed().await;
    };
    let (times, ()) = beside(&fleet, "many", paid).await;
    let done = (CARTS - 1) * each.div_ceil(WAVE) * WAVE;
    figure(&format!("{done} payments on {} carts took {:.0?}", CARTS - 1, began.elapsed()));
    times.print("beside carts of one shard");
    times.compare(&quiet);
    for id in &ids {
        let view = t1.view(&format!("cart.{id}"), None).await.body();
        let entries = view["payments"]["payments"].as_array().expect("payments").len();
        assert!(entries <= WAVE, "{entries} entries of {id}");
        assert_eq!(view["due"], 100_000, "{id}");
    }
    assert!(check::dead_letters(&fleet).await.is_empty());
    let largest: i32 =
        sqlx::query_scalar("select max(octet_length(payload::text)) from brigade.events")
            .fetch_one(&fleet.sql)
            .await
            .unwrap();
    figure(&format!("the largest event has {largest} bytes"));
    fleet.until_idle().await;
}
