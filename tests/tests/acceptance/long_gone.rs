//! S8-07: carts that nobody comes back to are abandoned, and old rows are deleted.

use brigade::workers::cart_lock_expiry::ExpiryMetrics;
use std::collections::BTreeMap;

use brigade_contracts::WorkerName;
use brigade_tests::{Producer, TestFleet, check, paying::lock, producer::item, until};
use futures::{FutureExt, StreamExt};
use serde_json::{Value, json};

const BEFORE: &str = "cart-lock-expiry.before_abandon";

/// Makes carts of the restaurant `t1` this many days older, and nothing else.
async fn pass(fleet: &TestFleet, carts: &[&str], days: i32) {
    let moved = sqlx::query(
        "update brigade.carts set updated_at = updated_at - make_interval(days => $2),
             changed_hour = changed_hour - 24 * $2
         where tenant = 't1' and id = any ($1)",
    )
    .bind(carts)
    .bind(days)
    .execute(&fleet.sql)
    .await
    .unwrap();
    assert_eq!(moved.rows_affected(), carts.len() as u64);
}

/// Opens a cart of an owner of its own and adds an item.
async fn cart(producer: &Producer, id: &str) {
    producer.cart_of(id, "menu", &format!("owner-{id}"), &[("i1", 1000, 1)]).await;
}

/// Returns how often each cart was abandoned, why and by whom.
async fn abandoned(fleet: &TestFleet) -> BTreeMap<String, (i64, String, String)> {
    let rows: Vec<(String, i64, String, String)> = sqlx::query_as(
        "select e.id, count(*), min(e.payload #>> '{data,reason}'), min(i.actor)
         from brigade.events e
         join brigade.command_inbox i on (i.tenant, i.command_id) = (e.tenant, e.command_id)
         where e.aggregate = 'cart' and e.type = 'abandoned' group by e.id",
    )
    .fetch_all(&fleet.sql)
    .await
    .unwrap();
    rows.into_iter().map(|(id, count, reason, actor)| (id, (count, reason, actor))).collect()
}

fn by_time(ids: &[&str]) -> BTreeMap<String, (i64, String, String)> {
    let once = || (1, "idle".to_owned(), "cart-lock-expiry".to_owned());
    ids.iter().map(|id| ((*id).to_owned(), once())).collect()
}

async fn until_abandoned(fleet: &TestFleet, ids: &[&str]) {
    let expected = by_time(ids);
    until("idle carts to be abandoned", || async {
        (abandoned(fleet).await.len() >= expected.len()).then_some(())
    })
    .await;
    assert_eq!(abandoned(fleet).await, expected);
}

async fn status(producer: &Producer, cart: &str) -> Value {
    producer.view(&format!("cart.{cart}"), None).await.body()["core"]["status"].take()
}

fn told(fleet: &TestFleet, outcome: &str) -> u64 {
    fleet.metrics.group::<ExpiryMetrics>().idle_carts.with_label_values(&[outcome]).get()
}

/// Counts the commands to abandon a cart.
async fn asked(fleet: &TestFleet) -> i64 {
    let asked = "select count(*) from brigade.command_inbox where subject like '%.abandon'";
    sqlx::query_scalar(asked).fetch_one(&fleet.sql).await.unwrap()
}

#[tokio::test]
async fn s8_07_idle_carts_are_abandoned_once_and_those_with_money_on_them_stay() {
    let mut fleet = TestFleet::start_without(WorkerName::CartLockExpiry).await;
    let producer = fleet.producer().await;
    let all = ["idle1", "idle2", "idle3", "young", "locked", "paying", "paid", "ended"];
    for id in all {
        cart(&producer, id).await;
    }
    // Another cart of an owner who is paying.
    producer.cart_of("other", "menu", "owner-locked", &[]).await;
    producer.lock("locked").await;
    producer.initiate("p1", "paying").await;
    let some = json!({ "target": { "cart": "paid" }, "method": "card", "amount": 400 });
    producer.done("payment.p2.initiate", some).await;
    assert_eq!(producer.result("p2", "captured", "g2", 400).await.status, 200);
    producer.done("cart.ended.check_out", json!({ "order_id": "o1" })).await;
    pass(&fleet, &["idle1", "idle2", "idle3", "other", "locked", "paying", "paid", "ended"], 8)
        .await;
    pass(&fleet, &["young"], 6).await;
    for _ in 0..2 {
        fleet.run(WorkerName::CartLockExpiry).await;
    }
    until_abandoned(&fleet, &["idle1", "idle2", "idle3"]).await;
    assert_eq!(status(&producer, "idle1").await, "abandoned");
    for open in ["young", "locked", "other", "paying", "paid"] {
        assert_eq!(status(&producer, open).await, "open", "{open}");
    }
    // Nobody was asked about those.
    assert_eq!((asked(&fleet).await, told(&fleet, "abandoned")), (3, 3));
    assert_eq!(told(&fleet, "changed") + told(&fleet, "away") + told(&fleet, "refused"), 0);
    fleet.finish().await;
}

#[tokio::test]
async fn s8_07_idle_carts_make_room_for_new_ones() {
    let fleet = TestFleet::start().await;
    let producer = fleet.producer().await;
    let open = async |n: usize| {
        let open = json!({ "kind": "menu", "owner": "ada", "session": "s1", "currency": "EUR" });
        producer.send(&format!("cart.c{n}.open"), open).await.code()
    };
    for n in 0..50 {
        assert_eq!(open(n).await, "created");
    }
    assert_eq!(open(50).await, "too_many_carts");
    pass(&fleet, &["c7", "c8"], 8).await;
    until_abandoned(&fleet, &["c7", "c8"]).await;
    for (n, code) in [(51, "created"), (52, "created"), (53, "too_many_carts")] {
        assert_eq!(open(n).await, code);
    }
    fleet.finish().await;
}

#[tokio::test]
async fn s8_07_a_cart_that_changes_at_the_same_moment_stays() {
    let fleet = TestFleet::start_without(WorkerName::CartLockExpiry).await;
    let producer = fleet.producer().await;
    for id in ["idle", "changed", "locked", "paid"] {
        cart(&producer, id).await;
    }
    pass(&fleet, &["idle", "changed", "locked", "paid"], 8).await;
    let armed = fleet.fail.arm(BEFORE);
    // It is not ready before it has looked.
    fleet.adopt(fleet.instance(WorkerName::CartLockExpiry));
    armed.reached().await;
    producer.done("cart.changed.add_item", item("i2", 5, 1)).await;
    producer.lock("locked").await;
    producer.initiate("p1", "paid").await;
    assert_eq!(producer.result("p1", "captured", "g1", 1000).await.status, 200);
    fleet.fail.disarm(BEFORE);
    until_abandoned(&fleet, &["idle"]).await;
    until("the answers", || async { (told(&fleet, "changed") == 3).then_some(()) }).await;
    for open in ["changed", "locked", "paid"] {
        assert_eq!(status(&producer, open).await, "open", "{open}");
    }
    fleet.finish().await;
}

#[tokio::test]
async fn s8_07_a_crash_before_an_idle_cart_is_decided_leaves_it_to_others() {
    let mut fleet = TestFleet::start_without(WorkerName::CartLockExpiry).await;
    let producer = fleet.producer().await;
    for id in ["idle", "changed"] {
        cart(&producer, id).await;
    }
    pass(&fleet, &["idle", "changed"], 8).await;
    let armed = fleet.fail.arm(BEFORE);
    // It is not ready before it has looked.
    fleet.adopt(fleet.instance(WorkerName::CartLockExpiry));
    armed.reached().await;
    producer.done("cart.changed.add_item", item("i2", 5, 1)).await;
    fleet.take(WorkerName::CartLockExpiry).kill().await;
    fleet.fail.disarm(BEFORE);
    fleet.run(WorkerName::CartLockExpiry).await;
    until_abandoned(&fleet, &["idle"]).await;
    assert_eq!((asked(&fleet).await, status(&producer, "changed").await), (1, json!("open")));
    fleet.finish().await;
}

#[tokio::test]
async fn s8_07_while_postgres_is_away_idle_carts_wait() {
    let mut fleet = TestFleet::empty_with_own_postgres().await;
    for worker in WorkerName::ALL.into_iter().filter(|w| *w != WorkerName::CartLockExpiry) {
        fleet.run(worker).await;
    }
    let producer = fleet.producer().await;
    for id in ["c1", "c2"] {
        cart(&producer, id).await;
    }
    fleet.until_idle().await;
    pass(&fleet, &["c1", "c2"], 8).await;
    let armed = fleet.fail.arm(BEFORE);
    // It is not ready before it has looked.
    fleet.adopt(fleet.instance(WorkerName::CartLockExpiry));
    armed.reached().await;
    fleet.postgres_mut().stop().await;
    fleet.fail.disarm(BEFORE);
    until("answers", || async { (told(&fleet, "away") == 2).then_some(()) }).await;
    fleet.postgres_mut().restart().await.unwrap();
    until_abandoned(&fleet, &["c1", "c2"]).await;
    fleet.finish().await;
}

#[tokio::test]
async fn s8_07_a_cart_that_cannot_be_read_keeps_no_other_one_open() {
    let mut fleet = TestFleet::start_without(WorkerName::CartLockExpiry).await;
    let producer = fleet.producer().await;
    for id in ["idle1", "idle2", "spoiled"] {
        cart(&producer, id).await;
    }
    pass(&fleet, &["idle1", "idle2"], 8).await;
    // The first to be found.
    pass(&fleet, &["spoiled"], 9).await;
    let spoil = "update brigade.carts set members = '5', payments = '{}' where id = 'spoiled'";
    sqlx::raw_sql(spoil).execute(&fleet.sql).await.unwrap();
    fleet.run(WorkerName::CartLockExpiry).await;
    until_abandoned(&fleet, &["idle1", "idle2"]).await;
    let mend = "update brigade.carts set members = '[]', payments = '[]' where id = 'spoiled'";
    sqlx::raw_sql(mend).execute(&fleet.sql).await.unwrap();
    until_abandoned(&fleet, &["idle1", "idle2", "spoiled"]).await;
    fleet.finish().await;
}

#[tokio::test]
async fn no_cart_is_abandoned_where_the_setting_says_never() {
    let mut fleet = TestFleet::start_without(WorkerName::CartLockExpiry).await;
    let producer = fleet.producer().await;
    cart(&producer, "idle").await;
    pass(&fleet, &["idle"], 800).await;
    fleet.settings.idle_cart_hours = 0;
    fleet.run(WorkerName::CartLockExpiry).await;
    let leases = "select name from brigade.leases where starts_with(name, 'cart-lock-expiry')";
    let leases: Vec<String> = until("a look for locks", || async {
        let leases = sqlx::query_scalar(leases).fetch_all(&fleet.sql).await.ok()?;
        (!leases.is_empty()).then_some(leases)
    })
    .await;
    assert_eq!(leases, ["cart-lock-expiry.sweep"]);
    // With an hour it goes.
    fleet.stop_one(WorkerName::CartLockExpiry).await;
    pass(&fleet, &["idle"], -800).await;
    let hours = "update brigade.carts set updated_at = updated_at - interval '61 minutes',
                 changed_hour = changed_hour - 1";
    sqlx::raw_sql(hours).execute(&fleet.sql).await.unwrap();
    fleet.settings.idle_cart_hours = 1;
    fleet.run(WorkerName::CartLockExpiry).await;
    until_abandoned(&fleet, &["idle"]).await;
    fleet.finish().await;
}

/// Returns the versions of locks by owner.
async fn locks(fleet: &TestFleet) -> BTreeMap<String, i64> {
    let locks = "select owner, version from brigade.cart_locks";
    let rows: Vec<(String, i64)> = sqlx::query_as(locks).fetch_all(&fleet.sql).await.unwrap();
    rows.into_iter().collect()
}

/// Clients that remember the version of a lock that was deleted see the new one all the same: the
/// handler that wrote it, and clients.
#[tokio::test]
async fn s8_07_a_recreated_lock_has_a_higher_version() {
    let mut fleet = TestFleet::start().await;
    let producer = fleet.producer().await;
    let mut pushes = producer.client.subscribe("live.cart_locks.t1.>").await.unwrap();
    producer.client.flush().await.unwrap();
    let owners: Vec<String> = (0..8).map(|n| format!("o{n}")).collect();
    for (n, owner) in owners.iter().enumerate() {
        let id = format!("c{n}");
        producer.cart_of(&id, "menu", owner, &[("i1", 1000, 1)]).await;
        let token = producer.lock(&id).await["token"].clone();
        for seconds in 0..n {
            let extend = json!({ "token": token, "seconds": seconds + 1 });
            producer.done(&format!("cart.{id}.extend"), extend).await;
        }
        let unlock = json!({ "token": token, "reason": "done" });
        producer.done(&format!("cart.{id}.unlock"), unlock).await;
    }
    // The first lock of an owner has version 1, as long as none was deleted.
    producer.cart_of("kept", "menu", "kept", &[("i1", 1000, 1)]).await;
    producer.lock("kept").await;
    let before = locks(&fleet).await;
    assert_eq!((before["o0"], before["o7"], before["kept"]), (2, 9, 1));
    fleet.until_idle().await;

    // A second handler remembers nothing, and begins a round with the lease.
    fleet.run(WorkerName::CommandHandler).await;
    sqlx::raw_sql(
        "update brigade.cart_locks set updated_at = now() - interval '31 days';
         insert into brigade.projection_backlog
         values ('t1', 'lock', 'nobody', 7, now() - interval '1 day')",
    )
    .execute(&fleet.sql)
    .await
    .unwrap();
    until("the old locks to be deleted", || async {
        let free = "delete from brigade.leases where name = 'command-handler.housekeeping'";
        sqlx::raw_sql(free).execute(&fleet.sql).await.unwrap();
        (locks(&fleet).await.len() == 1).then_some(())
    })
    .await;
    assert_eq!(locks(&fleet).await["kept"], 1, "it is held");
    let trail = "select count(*) from brigade.cart_lock_history where owner = 'o7'";
    let trail: i64 = sqlx::query_scalar(trail).fetch_one(&fleet.sql).await.unwrap();
    assert_eq!(trail, 9);
    let not_locked = producer.request("q.t1.lock.o3", &[], b"").await.unwrap();
    assert_eq!(not_locked.status, 404);
    // A backlog entry of a lock that is gone comes to nothing.
    fleet.until_idle().await;

    for (n, owner) in owners.iter().enumerate() {
        let taken = producer.lock(&format!("c{n}")).await;
        let shown = check::kv(&fleet, "cart_locks", &format!("t1.{owner}")).await.unwrap();
        assert_eq!((&shown["state"], &shown["version"]), (&json!("held"), &json!(10)), "{owner}");
        assert_eq!(shown["token"], taken["token"], "{owner}");
        let live = producer.request(&format!("q.t1.lock.{owner}"), &[], b"").await.unwrap();
        assert_eq!((live.status, &live.body()["cart"]), (200, &json!(format!("c{n}"))));
    }
    // So does what a session hands over to a user who never had a lock, or had one.
    producer.cart_of_session("s", "s1", &[("i1", 1000, 1)]).await;
    producer.done("cart.s.lock", lock("card")).await;
    producer.done("cart.s.claim", json!({ "user": "bob" })).await;
    let after = locks(&fleet).await;
    assert_eq!((after["s1"], after["bob"], after["kept"]), (11, 10, 1));
    fleet.until_idle().await;

    let mut seen: BTreeMap<String, u64> = BTreeMap::new();
    while let Some(Some(push)) = pushes.next().now_or_never() {
        let Ok(value) = serde_json::from_slice::<Value>(&push.payload) else { continue };
        let version = value["version"].as_u64().unwrap();
        let before = seen.insert(push.subject.to_string(), version);
        assert!(before.is_none_or(|before| before <= version), "{} {version}", push.subject);
    }
    assert_eq!(seen["live.cart_locks.t1.o7"], 10);
    fleet.finish().await;
}
