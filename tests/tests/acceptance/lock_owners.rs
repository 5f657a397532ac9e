//! S2: one lock over all carts of an owner, be it a user, a session, or a session that logs in; and
//! many who want it at once.

use brigade_contracts::WorkerName;
use brigade_tests::{
    Producer, TestFleet,
    paying::{age_lock, held_locks, lock, lock_history},
    producer::item,
};
use futures::future::join_all;
use serde_json::{Value, json};

fn locked() -> (u16, String) {
    (423, "cart_locked".to_owned())
}

/// Checks that a cart is locked although it is not the one that is paid.
async fn is_blocked(producer: &Producer, cart: &str) {
    for (what, payload) in [
        (format!("cart.{cart}.add_item"), item("more", 1, 1)),
        (format!("cart.{cart}.check_out"), json!({ "order_id": "o9" })),
        (format!("cart.{cart}.lock"), lock("card")),
        ("payment.p9.initiate".to_owned(), json!({ "target": { "cart": cart }, "method": "cash" })),
    ] {
        assert_eq!(producer.refused(&what, payload).await, locked(), "{what}");
    }
}

#[tokio::test]
async fn s2_04_the_lock_of_one_cart_blocks_its_owners_others() {
    let fleet = TestFleet::start().await;
    let producer = fleet.producer().await;
    for (owner, kind, other) in
        [("ada", "ticket", "menu"), ("bob", "menu", "ticket"), ("cid", "team", "team")]
    {
        let (paid, blocked) = (format!("{owner}-1"), format!("{owner}-2"));
        producer.cart_of(&paid, kind, owner, &[("i1", 100, 1)]).await;
        producer.cart_of(&blocked, other, owner, &[("i1", 100, 1)]).await;
        let token = producer.lock(&paid).await["token"].clone();
        is_blocked(&producer, &blocked).await;
        // Not even with the token, which is the other cart's.
        let out = json!({ "order_id": "o9", "token": token });
        assert_eq!(producer.refused(&format!("cart.{blocked}.check_out"), out).await, locked());
        let unlock = json!({ "token": token, "reason": "done" });
        producer.done(&format!("cart.{paid}.unlock"), unlock).await;
        producer.done(&format!("cart.{blocked}.add_item"), item("more", 1, 1)).await;
        // The lock is left behind for the next owner to be free of it.
        producer.lock(&blocked).await;
    }
    assert_eq!(held_locks(&fleet).await.len(), 3);
    fleet.finish().await;
}

#[tokio::test]
async fn s2_04_a_login_in_mid_checkout_keeps_token_and_deadline() {
    let fleet = TestFleet::start().await;
    let producer = fleet.producer().await;
    producer.cart_of_session("c1", "s1", &[("i1", 1000, 1)]).await;
    producer.cart_of_session("c2", "s1", &[("i1", 300, 1)]).await;
    producer.cart_of("c3", "menu", "ada", &[("i1", 500, 1)]).await;
    let taken = producer.initiate("p1", "c1").await;
    let row = || async {
        let row: (String, i64, time::OffsetDateTime, String) = sqlx::query_as(
            "select owner, token, expires_at, cart_id from brigade.cart_locks where state = 'held'",
        )
        .fetch_one(&fleet.sql)
        .await
        .unwrap();
        row
    };
    let before = row().await;
    producer.done("cart.c3.add_item", item("i2", 1, 1)).await;
    // From the cart that is not paid: all carts of the session come along.
    producer.done("cart.c2.claim", json!({ "user": "ada" })).await;
    let after = row().await;
    assert_eq!(after, ("ada".to_owned(), before.1, before.2, "c1".to_owned()));
    for cart in ["c1", "c2", "c3"] {
        let core = producer.view(&format!("cart.{cart}"), None).await.body()["core"].take();
        assert_eq!(core["owner"], "ada", "{cart}");
        let add = producer.refused(&format!("cart.{cart}.add_item"), item("more", 1, 1)).await;
        assert_eq!(add, locked(), "{cart}");
    }
    is_blocked(&producer, "c2").await;
    is_blocked(&producer, "c3").await;
    // The holder goes on under the number it has.
    let bind = json!({ "token": taken["token"], "transaction_id": "g1" });
    let bound = producer.done("cart.c1.bind_transaction", bind).await;
    assert_eq!(bound["expires_at"], taken["expires_at"]);
    let paid = producer.result("p1", "captured", "g1", 1000).await.body();
    assert_eq!(paid["data"]["core"]["status"], "captured");
    assert_eq!(held_locks(&fleet).await, vec![]);
    let told = |owner: &'static str| async {
        let entries = lock_history(&fleet, owner).await.into_iter();
        entries.filter(|e| e.0 != "refused").map(|e| (e.0, e.2)).collect::<Vec<_>>()
    };
    let entry = |action: &str, reason: Option<&str>| (action.to_owned(), reason.map(str::to_owned));
    let claimed = Some("claimed");
    assert_eq!(told("s1").await, [entry("acquired", None), entry("released", claimed)]);
    let (bound, released) = (entry("bound", None), entry("released", Some("captured")));
    assert_eq!(told("ada").await, [entry("acquired", claimed), bound, released]);
    fleet.finish().await;
}

#[tokio::test]
async fn s2_04_with_a_lock_on_both_sides_nothing_is_claimed() {
    let fleet = TestFleet::start().await;
    let producer = fleet.producer().await;
    producer.cart_of_session("c1", "s1", &[("i1", 1000, 1)]).await;
    producer.cart_of("c2", "menu", "ada", &[("i1", 500, 1)]).await;
    producer.initiate("p1", "c1").await;
    producer.initiate("p2", "c2").await;
    let before = (held_locks(&fleet).await, producer.view("cart.c1", None).await);
    let refused = producer.send("cart.c1.claim", json!({ "user": "ada" })).await;
    assert_eq!((refused.status, refused.code()), locked());
    assert!(refused.body()["retry_after_ms"].as_u64().is_some());
    assert_eq!((held_locks(&fleet).await, producer.view("cart.c1", None).await), before);
    // One of them ends, and it goes through.
    producer.done("payment.p2.cancel", json!({ "reason": "r" })).await;
    producer.done("cart.c1.claim", json!({ "user": "ada" })).await;
    assert_eq!(held_locks(&fleet).await, vec![("ada".to_owned(), before.0[1].1)]);
    assert_eq!(producer.result("p1", "captured", "g1", 1000).await.status, 200);
    fleet.finish().await;
}

/// Sends 50 commands at once, each under its own Command-Id. Returns the number done, and the codes
/// of the others.
async fn race(producer: &Producer, ask: impl Fn(usize) -> (String, Value)) -> (usize, Vec<String>) {
    let replies = join_all((0..50).map(|n| {
        let (what, payload) = ask(n);
        async move { producer.send(&what, payload).await }
    }))
    .await;
    let done = replies.iter().filter(|reply| reply.status < 300).count();
    let mut codes: Vec<_> = replies
        .iter()
        .filter(|reply| reply.status >= 300)
        .map(brigade_tests::Reply::code)
        .collect();
    codes.sort();
    codes.dedup();
    (done, codes)
}

#[tokio::test]
async fn s2_15_of_50_at_once_one_gets_the_lock() {
    let mut fleet = TestFleet::start().await;
    // They meet in different processes too.
    fleet.run(WorkerName::CommandHandler).await;
    let producer = fleet.producer().await;
    producer.adas_cart().await;
    producer.cart_of("c2", "ticket", "ada", &[("i1", 700, 1)]).await;
    let one = (1, vec!["cart_locked".to_owned()]);
    for round in 1..=5 {
        let ask = |n: usize| (format!("cart.c{}.lock", 1 + n % 2), lock("card"));
        assert_eq!(race(&producer, ask).await, one, "round {round}");
        let [(_, token)] = held_locks(&fleet).await[..] else { panic!("one lock") };
        let cart: String =
            sqlx::query_scalar("select cart_id from brigade.cart_locks where state = 'held'")
                .fetch_one(&fleet.sql)
                .await
                .unwrap();
        let unlock = json!({ "token": token, "reason": "next" });
        producer.done(&format!("cart.{cart}.unlock"), unlock).await;
    }
    // Of 50 payments over two carts the first that locks one has all that is due of it.
    let ask = |n: usize| {
        let target = json!({ "cart": format!("c{}", 1 + n % 2) });
        (format!("payment.p{n}.initiate"), json!({ "target": target, "method": "card" }))
    };
    let (begun, codes) = race(&producer, ask).await;
    assert_eq!((begun, codes), (1, vec!["cart_locked".to_owned(), "nothing_due".to_owned()]));
    fleet.finish().await;
}

#[tokio::test]
async fn s2_15_the_next_try_pays_after_a_timeout_or_a_failure() {
    let fleet = TestFleet::start().await;
    let producer = fleet.producer().await;
    producer.adas_cart().await;
    // A lock that nobody came back to, and the command that meets it.
    producer.lock("c1").await;
    age_lock(&fleet, "ada", 11).await;
    producer.done("cart.c1.set_item", json!({ "item_id": "i1", "quantity": 2 })).await;
    // A card that is declined.
    producer.initiate("p1", "c1").await;
    assert_eq!(producer.result("p1", "failed", "g1", 2000).await.status, 200);
    producer.done("cart.c1.set_item", json!({ "item_id": "i1", "quantity": 3 })).await;
    // A page that is closed.
    producer.initiate("p2", "c1").await;
    producer.done("payment.p2.cancel", json!({ "reason": "page closed" })).await;
    let third = producer.initiate("p3", "c1").await;
    assert_eq!(third["amount"], 3000);
    assert_eq!(producer.result("p3", "captured", "g3", 3000).await.status, 200);
    producer.done("cart.c1.check_out", json!({ "order_id": "o1" })).await;
    assert_eq!(producer.paid_and_due("order.o1").await, (json!(3000), json!(0)));
    let ends: Vec<_> =
        lock_history(&fleet, "ada").await.into_iter().filter_map(|entry| entry.2).collect();
    assert_eq!(ends, ["expired", "failed", "cancelled", "captured"]);
    fleet.finish().await;
}
