//! Names that nobody can take.

use brigade_contracts::WorkerName;
use brigade_tests::{HttpResponse, TestFleet, http_client::credentials};
use serde_json::json;

use super::{done, fleet_with, forbidden, is, open, wanted};

fn registration(user: &str) -> serde_json::Value {
    let mut who = credentials(&format!("of-{user}"));
    who["profile_id"] = "p1".into();
    who
}

#[tokio::test]
async fn s7_02_no_user_has_the_name_of_a_worker_an_operator_or_a_role() {
    let fleet = TestFleet::start().await;
    let (http, producer) = (fleet.http_client().await, fleet.producer().await);
    let others = ["operator", "Operator", "system", "gateway", "till", "backend", "screen"];
    let more = ["producer", "watcher", "staff", "manager", "customer", "brigade", "root", "-"];
    for name in WorkerName::ALL.map(WorkerName::as_str).into_iter().chain(others).chain(more) {
        let over_http = http.post(&format!("user/{name}/register"), &registration(name)).await;
        is(&over_http, 422, "reserved_id");
        let over_nats = producer.send(&format!("user.{name}.register"), registration(name)).await;
        assert_eq!((over_nats.status, over_nats.code().as_str()), (422, "reserved_id"), "{name}");
    }
    let users: i64 = sqlx::query_scalar("select count(*) from brigade.users")
        .fetch_one(&fleet.sql)
        .await
        .expect("a number");
    assert_eq!(users, 0);
    fleet.finish().await;
}

#[tokio::test]
async fn s7_02_a_stranger_becomes_nobody_whom_a_program_has_named() {
    let (fleet, producer, [ada]) = fleet_with(["ada"]).await;
    let http = fleet.http_client().await;
    // A program with users of its own: an owner, a member, two payers, one whose cart is closed.
    producer.cart_of("c17", "team", "cust-17", &[("i1", 1000, 1)]).await;
    producer.done("cart.c17.join", json!({"user": "cust-18"})).await;
    let pay = |user: &str| json!({"target": {"cart": "c17"}, "method": "card", "amount": 1, "user": user});
    producer.done("payment.p18.initiate", pay("cust-18")).await;
    let place = brigade_tests::producer::placed(&[("Soup", 500, 1)]);
    producer.done("order.o19.place", place).await;
    let pay = json!({"target": {"order": "o19"}, "method": "card", "user": "cust-19"});
    producer.done("payment.p19.initiate", pay).await;
    producer.cart_of("c20", "menu", "cust-20", &[("i1", 1000, 1)]).await;
    producer.done("cart.c20.check_out", json!({"order_id": "o20"})).await;
    producer.cart_of_session("c21", "s21", &[("i1", 1000, 1)]).await;
    producer.done("cart.c21.claim", json!({"user": "cust-21"})).await;
    for name in ["cust-17", "cust-18", "cust-19", "cust-20", "cust-21"] {
        let taken = http.post(&format!("user/{name}/register"), &registration(name)).await;
        is(&taken, 409, "already_exists");
        assert_eq!(taken.body()["version"], json!(null));
    }
    // What has failed once does so again, and another name is free.
    let taken = http.post_as("k1", "user/cust-17/register", &registration("cust-17")).await;
    let again = http.post_as("k1", "user/cust-17/register", &registration("cust-17")).await;
    let told = |response: &HttpResponse| {
        let mut body = response.body();
        // The request has an id of its own.
        body.as_object_mut().expect("an object").remove("instance");
        (response.status, body)
    };
    is(&taken, 409, "already_exists");
    assert_eq!(told(&again), told(&taken));
    http.register_and_log_in("cust-22").await;
    // Staff over HTTP is trusted like a program.
    producer.done("user.cust-22.change_roles", json!({"roles": ["staff"]})).await;
    done(&http.log_in("cust-22").await, "cart/c23/open", open("menu", "cust-23")).await;
    is(&http.post("user/cust-23/register", &registration("cust-23")).await, 409, "already_exists");
    // The program itself makes a user of its customer, whose that is then.
    producer.done("user.cust-17.register", credentials_of("cust-17")).await;
    let cust = http.log_in("cust-17").await;
    assert_eq!(cust.get("cart/c17", &[]).await.status, 200);

    // A session is no user, whoever has its name.
    producer.cart_of_session("c30", "s30", &[("i1", 1000, 1)]).await;
    let eve = http.register_and_log_in("s30").await;
    assert_eq!(eve.get("cart/c30", &[]).await.status, 403);
    forbidden(&eve, "cart/c30/add_item", wanted("i2", "soup", 1)).await;
    // Nor does what customers do themselves keep anybody's name.
    done(&ada, "cart/c31/open", open("menu", "ada")).await;
    let named = "select count(*) from brigade.named_people where name = 'ada'";
    let named: i64 = sqlx::query_scalar(named).fetch_one(&fleet.sql).await.expect("a number");
    assert_eq!(named, 0);
    fleet.finish().await;
}

fn credentials_of(user: &str) -> serde_json::Value {
    let mut who = credentials(user);
    who["profile_id"] = "p1".into();
    who
}
