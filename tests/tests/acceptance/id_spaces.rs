//! Name spaces of Command-Ids: what is sent over NATS has one, each user over HTTP has one of his
//! own.

use brigade_contracts::{WorkerName, header::STATUS};
use brigade_tests::{
    HttpClient, HttpResponse, Reply, SUPERUSER, TestFleet, check, paying::result, until,
};
use futures::{StreamExt, future::join_all};
use serde_json::{Value, json};

fn open(owner: &str) -> Value {
    json!({"kind": "menu", "owner": owner, "currency": "EUR"})
}

fn is(response: &HttpResponse, status: u16, code: &str) {
    assert_eq!((response.status, response.code().as_str()), (status, code), "{}", response.body());
}

async fn over_nats(fleet: &TestFleet, id: &str) -> Reply {
    let producer = fleet.producer().await;
    producer.request(&format!("q.t1.outcome.{id}"), &[], b"").await.expect("a reply")
}

async fn users<const N: usize>(http: &HttpClient, names: [&str; N]) -> [HttpClient; N] {
    let users = join_all(names.map(|name| http.register_and_log_in(name))).await;
    users.try_into().unwrap_or_else(|_| panic!("as many as there are names"))
}

/// Returns the keys of the inbox that end with this Command-Id.
async fn keys(fleet: &TestFleet, id: &str) -> Vec<String> {
    sqlx::query_scalar(
        "select command_id || ' ' || via from brigade.command_inbox
         where command_id = $1 or command_id like '%.' || $1 order by command_id",
    )
    .bind(id)
    .fetch_all(&fleet.sql)
    .await
    .expect("rows")
}

#[tokio::test]
async fn a_customer_uses_up_no_id_of_a_gateway_and_a_backend_none_of_his() {
    let fleet = TestFleet::start().await;
    let [eve] = users(&fleet.http_client().await, ["eve"]).await;
    let producer = fleet.producer().await;
    producer.adas_cart().await;
    producer.initiate("p1", "c1").await;
    // The browser knows the gateway's id, and comes first.
    let join = json!({"user": "eve"});
    is(&eve.post_as("pi_3Q", "cart/none/join", &join).await, 403, "wrong_secret");
    let captured =
        producer.publish("pi_3Q", "payment.p1.record_result", result("captured", "g1", 1000)).await;
    assert_eq!((&captured["status"], &captured["command_id"]), (&json!(200), &json!("pi_3Q")));
    assert_eq!(producer.payment_status("p1").await, "captured");
    assert_eq!(keys(&fleet, "pi_3Q").await, ["eve.pi_3Q http", "pi_3Q nats"]);
    // Each finds its own, again and again.
    assert_eq!(over_nats(&fleet, "pi_3Q").await.body(), captured);
    assert_eq!(eve.get("outcomes/pi_3Q", &[]).await.body()["code"], "wrong_secret");
    let again =
        producer.send_as("pi_3Q", "payment.p1.record_result", result("captured", "g1", 1000)).await;
    assert_eq!(again.body(), captured);
    is(&eve.post_as("pi_3Q", "cart/none/join", &join).await, 403, "wrong_secret");

    // The other way round, on the request door.
    assert_eq!(producer.send_as("b1", "cart.c2.open", open("ada")).await.status, 201);
    is(&eve.get("outcomes/b1", &[]).await, 404, "not_decided");
    assert_eq!(eve.post_as("b1", "cart/c3/open", &open("eve")).await.status, 201);
    assert_eq!(over_nats(&fleet, "b1").await.body()["id"], "c2");
    assert_eq!(eve.get("outcomes/b1", &[]).await.body()["id"], "c3");
    assert_eq!(check::dead_letters(&fleet).await.len(), 0);
    fleet.finish().await;
}

#[tokio::test]
async fn a_program_of_a_tenant_names_no_id_of_a_user() {
    let fleet = TestFleet::start().await;
    let [ada] = users(&fleet.http_client().await, ["ada"]).await;
    let producer = fleet.producer().await;
    for id in ["ada.k1", "ada..k1"] {
        let refused = producer.send_as(id, "cart.c1.open", open("ada")).await;
        assert_eq!((refused.status, refused.code().as_str()), (400, "missing_command_id"), "{id}");
    }
    // With so many headers that not all are read.
    let filler = "x".repeat(20_000);
    let headers = [("Command-Id", "ada.k1"), ("X", filler.as_str())];
    let refused = producer.request("req.t1.cart.c1.open", &headers, b"{}").await.expect("a reply");
    assert!(matches!(refused.status, 400 | 413), "{}", refused.body());
    producer.store("ada.k1", "cart.c1.open", &open("ada").to_string()).await;
    let letter =
        until("the dead letter", || async { check::dead_letters(&fleet).await.pop() }).await;
    let reason = letter.headers.as_ref().and_then(|headers| headers.get("Dead-Reason")).cloned();
    assert!(reason.expect("a reason").as_str().starts_with("missing_command_id"));
    assert_eq!(keys(&fleet, "k1").await, Vec::<String>::new());
    assert_eq!(ada.post_as("k1", "cart/c1/open", &open("ada")).await.status, 201);
    fleet.until_idle().await;
}

#[tokio::test]
async fn users_with_the_same_key_each_get_their_own_outcome_from_any_edge() {
    let mut fleet = TestFleet::start().await;
    let [ada, bob, eve] = users(&fleet.http_client().await, ["ada", "bob", "eve"]).await;
    let (adas, bobs) = (open("ada"), open("bob"));
    let post = || {
        let many = (0..5).flat_map(|_| {
            [ada.post_as("k1", "cart/c1/open", &adas), bob.post_as("k1", "cart/c2/open", &bobs)]
        });
        join_all(many)
    };
    let first = post().await;
    for (at, answer) in first.iter().enumerate() {
        let id = ["c1", "c2"][at % 2];
        assert_eq!((answer.status, &answer.bytes), (201, &first[at % 2].bytes));
        let body = answer.body();
        assert_eq!((&body["command_id"], &body["id"]), (&json!("k1"), &json!(id)));
    }
    fleet.stop_one(WorkerName::Edge).await;
    fleet.run(WorkerName::Edge).await;
    for (again, before) in post().await.iter().zip(&first) {
        assert_eq!(again.bytes, before.bytes);
    }
    for (user, answer) in [(&ada, &first[0]), (&bob, &first[1])] {
        assert_eq!(user.get("outcomes/k1", &[]).await.bytes, answer.bytes);
        // It is his own command that a key cannot name twice.
        is(&user.post_as("k1", "cart/c1/join", &json!({})).await, 409, "command_id_reused");
    }
    is(&eve.get("outcomes/k1", &[]).await, 404, "not_decided");
    // Nor do the words of another name space lead there.
    assert_eq!(eve.get("outcomes/ada.k1", &[]).await.status, 400);
    assert_eq!(over_nats(&fleet, "k1").await.code(), "not_decided");
    assert_eq!(keys(&fleet, "k1").await, ["ada.k1 http", "bob.k1 http"]);
    let events: Vec<(String, Option<String>, String)> = sqlx::query_as(
        "select id, actor, via from brigade.events where command_id = 'k1' order by id",
    )
    .fetch_all(&fleet.sql)
    .await
    .expect("rows");
    let caused = |id: &str, by: &str| (id.to_owned(), Some(by.to_owned()), "http".to_owned());
    assert_eq!(events, [caused("c1", "ada"), caused("c2", "bob")]);
    fleet.finish().await;
}

#[tokio::test]
async fn a_handler_that_dies_after_a_users_commit_costs_nothing_but_time() {
    let mut fleet = TestFleet::start().await;
    let [ada] = users(&fleet.http_client().await, ["ada"]).await;
    let armed = fleet.fail.arm("command-handler.after_commit");
    let asking = tokio::spawn({
        let ada = ada.clone();
        async move { ada.post_as("k1", "cart/c1/open", &open("ada")).await }
    });
    armed.reached().await;
    fleet.take(WorkerName::CommandHandler).kill().await;
    fleet.fail.disarm("command-handler.after_commit");
    fleet.run(WorkerName::CommandHandler).await;
    let first = asking.await.expect("no panic");
    assert!(matches!(first.status, 201 | 503), "{}", first.body());
    let again = ada.post_as("k1", "cart/c1/open", &open("ada")).await;
    assert_eq!((again.status, again.etag()), (201, "\"1\""));
    assert!(first.status == 503 || first.bytes == again.bytes);
    assert_eq!(ada.get("outcomes/k1", &[]).await.bytes, again.bytes);
    fleet.finish().await;
}

#[tokio::test]
async fn what_a_version_without_name_spaces_has_decided_is_found() {
    let fleet = TestFleet::start().await;
    let [ada, bob] = users(&fleet.http_client().await, ["ada", "bob"]).await;
    let first = ada.post_as("k1", "cart/c1/open", &open("ada")).await;
    assert_eq!(first.status, 201);
    let as_before = "update brigade.command_inbox set command_id = 'k1', via = null
                     where command_id = 'ada.k1'";
    sqlx::query(as_before).execute(&fleet.sql).await.expect("written");
    assert_eq!(ada.post_as("k1", "cart/c1/open", &open("ada")).await.bytes, first.bytes);
    assert_eq!(ada.get("outcomes/k1", &[]).await.bytes, first.bytes);
    is(&bob.get("outcomes/k1", &[]).await, 404, "not_decided");
    assert_eq!(bob.post_as("k1", "cart/c1/open", &open("bob")).await.status, 409);
    assert_eq!(bob.get("outcomes/k1", &[]).await.body()["code"], "already_exists");
    assert_eq!(over_nats(&fleet, "k1").await.bytes, first.bytes);
    // A backend's row is none of hers, although it names her.
    let headers = [("Command-Id", "k2"), ("Actor", "ada")];
    let payload = open("ada").to_string();
    let producer = fleet.producer().await;
    let sent = producer.request("req.t1.cart.c2.open", &headers, payload.as_bytes()).await;
    assert_eq!(sent.expect("a reply").status, 201);
    is(&ada.get("outcomes/k2", &[]).await, 404, "not_decided");
    is(&ada.post_as("k2", "cart/c2/open", &open("ada")).await, 409, "already_exists");
    fleet.finish().await;
}

#[tokio::test]
async fn a_handler_without_name_spaces_decides_nothing_of_a_user() {
    let mut fleet = TestFleet::start().await;
    let [ada] = users(&fleet.http_client().await, ["ada"]).await;
    fleet.stop_one(WorkerName::CommandHandler).await;
    let client = fleet.connect(SUPERUSER).await;
    let mut requests = client.subscribe("req.>").await.expect("subscribed");
    client.flush().await.expect("flushed");
    let asking = tokio::spawn({
        let ada = ada.clone();
        async move { ada.post_as("k1", "cart/c1/open", &open("ada")).await }
    });
    let refusal = json!({"command_id": null, "status": 400, "code": "missing_command_id",
                         "message": "", "aggregate": "cart", "id": "c1", "version": null,
                         "etag": null, "effects": [], "data": {}, "retry_after_ms": null});
    for _ in 0..2 {
        let request = requests.next().await.expect("a request");
        let mut headers = async_nats::HeaderMap::new();
        headers.insert(STATUS, "400");
        let reply = request.reply.expect("a reply subject");
        let body = refusal.to_string().into();
        client.publish_with_headers(reply, headers, body).await.expect("published");
    }
    drop(requests);
    fleet.run(WorkerName::CommandHandler).await;
    let decided = asking.await.expect("no panic");
    assert!(matches!(decided.status, 201 | 503), "{}", decided.body());
    assert_eq!(ada.post_as("k1", "cart/c1/open", &open("ada")).await.status, 201);
    fleet.finish().await;
}

fn is_replayed(reply: &Reply) -> bool {
    reply.headers.contains(&("Brigade-Replayed".to_owned(), "true".to_owned()))
}

#[tokio::test]
async fn s7_07_what_waiting_cures_is_decided_anew_but_on_the_durable_door() {
    let (fleet, http) = super::http::open_fleet().await;
    let producer = fleet.producer().await;
    producer.adas_cart().await;
    let unlock = |token: Value| json!({"token": token, "reason": "back"});
    let add = |id: &str| brigade_tests::producer::item(id, 100, 1);
    // A request is told to wait, and is decided when the lock is gone.
    let held = producer.lock("c1").await["token"].clone();
    let over_http = |key: &'static str, id: &'static str| {
        let (http, item) = (http.clone(), add(id));
        async move { http.post_as(key, "cart/c1/add_item", &item).await }
    };
    for _ in 0..2 {
        let refused = producer.send_as("k1", "cart.c1.add_item", add("i2")).await;
        assert_eq!((refused.status, is_replayed(&refused)), (423, false));
        let refused = over_http("k2", "i3").await;
        is(&refused, 423, "cart_locked");
        assert_ne!(refused.header("retry-after"), "");
        assert_eq!(refused.header("idempotency-replayed"), "");
    }
    assert_eq!(over_nats(&fleet, "k1").await.status, 404, "it is not decided");
    producer.done("cart.c1.unlock", unlock(held)).await;
    let done = producer.send_as("k1", "cart.c1.add_item", add("i2")).await;
    assert_eq!((done.status, is_replayed(&done)), (200, false), "{}", done.body());
    let again = producer.send_as("k1", "cart.c1.add_item", add("i2")).await;
    assert_eq!((&again.bytes, is_replayed(&again)), (&done.bytes, true));
    let first = over_http("k2", "i3").await;
    assert_eq!((first.status, first.header("idempotency-replayed")), (200, ""));
    let again = over_http("k2", "i3").await;
    assert_eq!(again.bytes, first.bytes);
    assert_eq!(again.header("idempotency-replayed"), "true");
    // A stored command has its outcome once and for all, at either door.
    let held = producer.lock("c1").await["token"].clone();
    let refused = producer.publish("k3", "cart.c1.add_item", add("i4")).await;
    assert_eq!(refused["code"], "cart_locked");
    producer.done("cart.c1.unlock", unlock(held)).await;
    let later = producer.send_as("k3", "cart.c1.add_item", add("i4")).await;
    assert_eq!((later.body(), is_replayed(&later)), (refused, true));
    let later = over_http("k3", "i4").await;
    is(&later, 423, "cart_locked");
    assert_eq!(later.header("idempotency-replayed"), "true");
    assert_eq!(later.header("retry-after"), "", "waiting does not change it");
    // What the request door did not store may still be decided by the durable one.
    let held = producer.lock("c1").await["token"].clone();
    assert_eq!(producer.send_as("k4", "cart.c1.add_item", add("i4")).await.status, 423);
    producer.done("cart.c1.unlock", unlock(held)).await;
    assert_eq!(producer.publish("k4", "cart.c1.add_item", add("i4")).await["status"], 200);
    assert!(is_replayed(&producer.send_as("k4", "cart.c1.add_item", add("i4")).await));
    fleet.finish().await;
}

#[tokio::test]
async fn an_error_names_the_field_and_leads_to_a_page() {
    let (fleet, http) = super::http::open_fleet().await;
    let item = json!({"item_id": "i", "sku": "s", "name": "n", "unit_price": 1, "quantity": 0});
    let place = json!({"currency": "EUR", "items": [item]});
    let refused = http.post("order/o1/place", &place).await;
    assert_eq!(refused.status, 422, "{}", refused.body());
    assert_eq!(refused.body()["param"], "items[0].quantity");
    let bad = http.get("cart/c1", &[("Confirm", "guess")]).await;
    assert_eq!(bad.body()["param"], "Confirm");
    let absent = http.get("cart/c1", &[]).await;
    assert_eq!(absent.body().get("param"), None);
    for response in [refused, bad, absent] {
        let page = http.text(response.body()["type"].as_str().expect("a path")).await;
        let status = format!("status: {}", response.status);
        assert!(page.starts_with(&response.code()) && page.contains(&status), "{page}");
    }
    assert!(http.text("/v1/errors").await.starts_with("# Codes"));
    assert!(http.text("/v1/errors/no_such_code").await.contains("not_found"));
    fleet.finish().await;
}
