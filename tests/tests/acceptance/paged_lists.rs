//! S7-08: tables, carts, orders, what is owed back and what nobody knows are read page by page.

use brigade_tests::{
    Producer, TestFleet,
    producer::{item, placed},
};
use serde_json::{Value, json};

use crate::{
    pages::{named, next_of, rows},
    prices::with_roles,
};

/// Puts into `t1` what the lists are about.
async fn restaurant(producer: &Producer) {
    for n in 0..5 {
        let table = json!({"label": format!("{n}"), "seats": 4});
        producer.done(&format!("table.tb{n}.register"), table).await;
    }
    producer.done("table.tb2.open_turn", json!({"turn_id": "u1", "party_size": 3})).await;
    // Carts: of ada, with ada in them, of somebody else, of a session of her name.
    for cart in ["c1", "c2"] {
        producer.cart_of(cart, "menu", "ada", &[("i1", 1000, 2), ("i2", 300, 1)]).await;
    }
    producer.team_cart("team", "bob", &["ada", "cid"]).await;
    producer.team_cart("other", "bob", &["cid"]).await;
    producer.cart_of_session("of-session", "ada", &[("i1", 1000, 1)]).await;
    // Orders: of such carts, and one of nobody.
    for (cart, order) in [("d1", "o1"), ("d2", "o2"), ("d3", "o3")] {
        producer.cart_of(cart, "menu", "ada", &[("i1", 1000, 1)]).await;
        producer.done(&format!("cart.{cart}.check_out"), json!({ "order_id": order })).await;
    }
    producer.team_cart("party", "bob", &["ada"]).await;
    producer.done("cart.party.add_item", item("i1", 700, 1)).await;
    producer.done("cart.party.check_out", json!({"order_id": "o4"})).await;
    producer.done("order.o5.place", placed(&[("Soup", 500, 1)])).await;
    for verb in ["accept", "prepare", "ready", "serve", "complete"] {
        producer.done(&format!("order.o5.{verb}"), json!({})).await;
    }
    producer.done("order.o3.cancel", json!({"reason": "guest left"})).await;
    // Money: captured twice, captured too much, and nobody knows.
    for (payment, order) in [("p1", "o1"), ("p2", "o2"), ("p3", "o4")] {
        let pay = json!({"target": {"order": order}, "method": "card"});
        producer.done(&format!("payment.{payment}.initiate"), pay).await;
    }
    for (payment, transaction, amount) in
        [("p1", "g1", 1000), ("p1", "g2", 1000), ("p2", "g3", 1200)]
    {
        let reply = producer.result(payment, "captured", transaction, amount).await;
        assert_eq!(reply.status, 200, "{}", reply.body());
    }
    assert_eq!(producer.result("p3", "unknown", "g4", 700).await.status, 200);
    // A lock.
    producer.lock("c1").await;
}

/// A list: its subject behind `q.t1.`, its path, the id of a row, the rows, and who reads it over
/// HTTP of ada (a customer), staff and a manager.
type Listed<'a> = (&'a str, &'a str, &'a str, &'a [&'a str], [u16; 3]);

const LISTS: [Listed<'_>; 6] = [
    ("tables", "tables", "table", &["tb0", "tb1", "tb2", "tb3", "tb4"], [403, 200, 200]),
    ("carts.ada", "me/carts", "cart", &["c1", "c2", "team"], [200, 200, 200]),
    ("orders.ada", "me/orders", "order", &["o4", "o3", "o2", "o1"], [200, 200, 200]),
    ("ended_orders", "ended-orders", "order", &["o3", "o5"], [403, 200, 200]),
    ("refund_tasks", "refund-tasks", "task", &["p1.1", "p2.1"], [403, 403, 200]),
    ("unknown_payments", "unknown-payments", "payment", &["p3"], [403, 403, 200]),
];

/// Reads a list page by page, over NATS.
async fn read_by(producer: &Producer, subject: &str, limit: &str) -> Vec<Value> {
    let (mut all, mut after) = (Vec::new(), None::<String>);
    loop {
        let mut headers = vec![("Limit", limit)];
        headers.extend(after.as_deref().map(|after| ("After", after)));
        let reply = producer.request(subject, &headers, b"").await.expect("an answer");
        assert_eq!(reply.status, 200, "{subject}: {}", reply.body());
        all.extend(rows(&reply.body()));
        after = next_of(&reply.body());
        if after.is_none() {
            return all;
        }
    }
}

#[tokio::test]
async fn s7_08_each_list_is_read_page_by_page_by_those_whom_it_is_for() {
    let fleet = TestFleet::start().await;
    let (producer, http) = (fleet.producer().await, fleet.http_client().await);
    // Before a program names her: then nobody can take the name.
    let ada = http.register_and_log_in("ada").await;
    restaurant(&producer).await;
    let staff = with_roles(&fleet, &http, "sam", &["staff"]).await;
    let manager = with_roles(&fleet, &http, "mia", &["manager"]).await;
    let other = Producer::new(fleet.connect("t2-producer").await, "t2");
    for (subject, path, id, expected, allowed) in LISTS {
        let own = format!("q.t1.{subject}");
        let whole = producer.request(&own, &[], b"").await.expect("an answer");
        assert_eq!(named(&rows(&whole.body()), id), expected, "{subject}");
        assert_eq!(whole.body()["next"], Value::Null);
        for limit in ["1", "2", "500"] {
            assert_eq!(read_by(&producer, &own, limit).await, rows(&whole.body()), "{subject}");
        }
        // The same over HTTP, for whoever may read it; carts and orders are those of who asks.
        let is_own = path.starts_with("me/");
        for (who, allowed) in [&ada, &staff, &manager].into_iter().zip(allowed) {
            let response = who.get(path, &[]).await;
            assert_eq!(response.status, allowed, "{path}: {}", response.body());
            if allowed == 200 && (!is_own || std::ptr::eq(who, &ada)) {
                assert_eq!(response.bytes, whole.bytes, "{path}");
                assert_eq!(Some(response.etag().to_owned()), whole.etag);
            } else if allowed == 200 {
                assert_eq!(response.body(), json!({"rows": [], "next": null}), "{path}");
            }
        }
        assert_eq!(http.get(path, &[]).await.status, 401, "{path}");
        let reader = if is_own { &ada } else { &manager };
        let etag = whole.etag.clone().expect("an ETag");
        assert_eq!(reader.get(path, &[("If-None-Match", &etag)]).await.status, 304);
        if expected.len() > 1 {
            let first = reader.get(&format!("{path}?limit=1"), &[]).await;
            let link = first.header("link").to_owned();
            let next =
                link.strip_prefix("</v1/t1/").and_then(|l| l.strip_suffix(">; rel=\"next\""));
            let second = reader.get(next.expect("a link"), &[]).await;
            assert_eq!(named(&rows(&second.body()), id), expected[1..2]);
        }
        // Nothing of it is another restaurant's, and a place in it is one in no other list.
        let theirs = other.request(&format!("q.t2.{subject}"), &[], b"").await.expect("an answer");
        assert_eq!(theirs.body(), json!({"rows": [], "next": null}), "{subject}");
        for bad in ["", "x", "z1.0.tb1", "t1.0", "o1.-1.o1"] {
            let refused = producer.request(&own, &[("After", bad)], b"").await.expect("an answer");
            assert_eq!((refused.status, refused.code().as_str()), (400, "bad_header"), "{bad}");
        }
        let refused = reader.get(&format!("{path}?after=nonsense"), &[]).await;
        assert_eq!((refused.status, refused.code().as_str()), (400, "bad_header"), "{path}");
        assert_eq!(reader.get(&format!("{path}?limit=501"), &[]).await.status, 400);
    }
    fleet.finish().await;
}

#[tokio::test]
async fn s7_08_the_rows_of_lists_say_what_is_and_are_never_stale() {
    let fleet = TestFleet::start().await;
    let (producer, http) = (fleet.producer().await, fleet.http_client().await);
    let ada = http.register_and_log_in("ada").await;
    let bob = http.register_and_log_in("bob").await;
    restaurant(&producer).await;
    let list = async |subject: &str| {
        let reply = producer.request(&format!("q.t1.{subject}"), &[], b"").await;
        reply.expect("an answer").body()
    };
    let tables = rows(&list("tables").await);
    let view = producer.view("table.tb2", None).await.body();
    let turn = &view["core"]["open_turn"];
    assert_eq!((&tables[2]["open_turn"], &tables[2]["status"]), (turn, &json!("occupied")));
    assert_eq!(tables[2]["version"], view["version"]);
    let carts = rows(&list("carts.ada").await);
    let first = |field: &str| carts[0][field].clone();
    assert_eq!(
        (first("items"), first("total"), first("owner")),
        (json!(2), json!(2300), json!("ada"))
    );
    assert!(first("locked_until").is_string());
    let orders = rows(&list("orders.ada").await);
    assert_eq!(
        (&orders[1]["status"], &orders[1]["reason"]),
        (&json!("cancelled"), &json!("guest left"))
    );
    assert_eq!((&orders[3]["paid"], &orders[3]["ended_at"]), (&json!(1000), &Value::Null));
    let tasks = rows(&list("refund_tasks").await);
    assert_eq!(
        (&tasks[0]["reason"], &tasks[0]["amount"]),
        (&json!("captured_again"), &json!(1000))
    );
    assert_eq!((&tasks[1]["reason"], &tasks[1]["amount"]), (&json!("surplus"), &json!(200)));
    assert_eq!(tasks[1]["target"], json!({"order": "o2"}));
    let unknown = rows(&list("unknown_payments").await);
    assert_eq!((&unknown[0]["amount"], &unknown[0]["method"]), (&json!(700), &json!("card")));

    // Each outcome is in the next answer, though nobody projects anything.
    let _projector = fleet.fail.arm("payment-projector.before_projection");
    let etag = async |subject: &str| {
        let reply = producer.request(&format!("q.t1.{subject}"), &[], b"").await;
        reply.expect("an answer").etag.expect("an ETag")
    };
    let before = [etag("tables").await, etag("refund_tasks").await, etag("unknown_payments").await];
    producer.done("table.tb2.close_turn", json!({"turn_id": "u1"})).await;
    producer.done("payment.p2.refund", json!({"amount": 200, "reason": "surplus"})).await;
    assert_eq!(producer.result("p3", "captured", "g4", 700).await.status, 200);
    for (subject, before) in ["tables", "refund_tasks", "unknown_payments"].iter().zip(&before) {
        let known = [("If-None-Match", before.as_str())];
        let reply = producer.request(&format!("q.t1.{subject}"), &known, b"").await;
        assert_eq!(reply.expect("an answer").status, 200, "{subject}: never 304");
    }
    assert_eq!(named(&rows(&list("refund_tasks").await), "task"), ["p1.1"]);
    assert_eq!(rows(&list("unknown_payments").await), Vec::<Value>::new());
    fleet.fail.disarm("payment-projector.before_projection");

    // Orders that ended on a day: today, as the database says, in any zone.
    let today: String =
        sqlx::query_scalar("select to_char(now() at time zone 'utc', 'YYYY-MM-DD')")
            .fetch_one(&fleet.sql)
            .await
            .expect("a day");
    let ended = async |day: &str| {
        let reply = producer.request("q.t1.ended_orders", &[("Day", day)], b"").await;
        let reply = reply.expect("an answer");
        (reply.status, if reply.status == 200 { rows(&reply.body()).len() } else { 0 })
    };
    let move_back = "update brigade.orders set updated_at = updated_at - interval '3 days'
                     where id = 'o5'";
    sqlx::query(move_back).execute(&fleet.sql).await.expect("moved");
    let days = "select to_char(ended_at at time zone 'utc', 'YYYY-MM-DD') from brigade.orders
                where id = 'o5'";
    let then: String = sqlx::query_scalar(days).fetch_one(&fleet.sql).await.expect("a day");
    let of_o3 = days.replace("'o5'", "'o3'");
    let of_o3: String =
        sqlx::query_scalar(sqlx::AssertSqlSafe(of_o3)).fetch_one(&fleet.sql).await.expect("a day");
    assert!(of_o3 <= today);
    assert_eq!((ended(&of_o3).await, ended(&then).await), ((200, 1), (200, 1)));
    assert_eq!(ended("2020-01-01").await, (200, 0));
    for bad in ["today", "2026-02-30", "2026-1-1"] {
        assert_eq!(ended(bad).await, (400, 0), "{bad}");
    }
    sqlx::query(sqlx::AssertSqlSafe(move_back.replace(" - ", " + ")))
        .execute(&fleet.sql)
        .await
        .expect("moved back");

    // The lock of an owner, and its history, for the owner and for staff.
    let staff = with_roles(&fleet, &http, "sam", &["staff"]).await;
    let lock = list("lock.ada").await;
    for who in [&ada, &staff] {
        assert_eq!(who.get("locks/ada", &[]).await.body(), lock);
        let history = who.get("locks/ada/history?limit=1", &[]).await.body();
        assert_eq!(history["entries"].as_array().expect("entries").len(), 1);
        assert_eq!(history["entries"][0]["action"], "acquired");
    }
    for path in ["locks/ada", "locks/ada/history"] {
        assert_eq!(bob.get(path, &[]).await.code(), "not_allowed");
    }
    assert_eq!(bob.get("locks/bob", &[]).await.code(), "not_locked");
    assert_eq!(staff.get("locks/ada/history?limit=501", &[]).await.code(), "bad_header");
    fleet.finish().await;
}
