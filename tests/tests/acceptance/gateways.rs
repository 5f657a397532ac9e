//! A gateway's signed messages over HTTP.

use std::fs;

use brigade_contracts::WorkerName;
use brigade_dev::simulated_gateway::{NAME, SimulatedGateway, sign, signature};
use brigade_tests::{
    HttpClient, HttpResponse, Producer, TestFleet,
    gateway::{Gateway, bytes, intent, now, refunded},
    process::{self, Process, printed},
    until,
};
use futures::future::join_all;
use serde_json::{Value, json};

const SECRET: &str = "whsec_of-the-gateway-of-t1";

async fn fleet() -> (TestFleet, Producer, Gateway) {
    let fleet = TestFleet::start().await;
    let (producer, gateway) = paying(&fleet).await;
    (fleet, producer, gateway)
}

/// ada is paying 10.00 for her cart.
async fn paying(fleet: &TestFleet) -> (Producer, Gateway) {
    let producer = fleet.producer().await;
    producer.adas_cart().await;
    producer.initiate("p1", "c1").await;
    (producer, Gateway::register(fleet, "stripe", SECRET).await)
}

fn is(response: &HttpResponse, status: u16, code: &str) {
    assert_eq!((response.status, response.code().as_str()), (status, code), "{}", response.body());
}

async fn events(fleet: &TestFleet, of: &str) -> Vec<String> {
    let types = "select type from brigade.events where aggregate = 'payment' and id = $1
                 order by version";
    sqlx::query_scalar(types).bind(of).fetch_all(&fleet.sql).await.expect("sql")
}

fn counted(fleet: &TestFleet, result: &str) -> u64 {
    fleet.edge_metrics().gateway_messages.with_label_values(&[result]).get()
}

#[tokio::test]
async fn s7_10_a_signed_message_is_taken_once_however_often_it_comes() {
    let (fleet, producer, gateway) = fleet().await;
    let captured = intent("evt_1", "succeeded", "p1", "pi_1", 1000);
    let told = join_all((0..12).map(|_| gateway.tell(&captured))).await;
    for response in &told {
        is(response, 200, "ok");
    }
    assert_eq!(producer.paid_and_due("cart.c1").await, (json!(1000), json!(0)));
    assert_eq!(events(&fleet, "p1").await, ["initiated", "captured"]);
    assert_eq!((counted(&fleet, "taken"), counted(&fleet, "repeated")), (1, 11));
    // Another event about the same money.
    let again = intent("evt_2", "succeeded", "p1", "pi_1", 1000);
    is(&gateway.tell(&again).await, 200, "already_captured");
    assert_eq!(events(&fleet, "p1").await, ["initiated", "captured"]);
    // Who said so stands in the events.
    let actor: Vec<(Option<String>, Option<String>)> = sqlx::query_as(
        "select actor, via from brigade.events where aggregate = 'payment' and type = 'captured'",
    )
    .fetch_all(&fleet.sql)
    .await
    .expect("sql");
    assert_eq!(actor, [(Some("gateway-stripe".to_owned()), Some("fleet".to_owned()))]);
    // Its id is one of the ids of the restaurant's programs.
    let outcome = producer.request("q.t1.outcome.evt_1", &[], b"").await.expect("an answer");
    assert_eq!(outcome.body()["code"], "ok");
    fleet.finish().await;
}

#[tokio::test]
async fn s7_10_a_forged_message_leaves_nothing() {
    let (fleet, producer, gateway) = fleet().await;
    let other = Gateway::register(&fleet, "other", "whsec_of-another-gateway").await;
    let inbox = async || -> i64 {
        let count = "select count(*) from brigade.command_inbox";
        sqlx::query_scalar(count).fetch_one(&fleet.sql).await.expect("sql")
    };
    let before = inbox().await;
    let body = intent("evt_1", "succeeded", "p1", "pi_1", 1000);
    let (time, good) = (now(), sign(SECRET, now(), &body));
    let forged = [
        None,
        Some(String::new()),
        Some(good.clone()),
        Some(format!("t={time}")),
        Some(format!("v1={good}")),
        Some(format!("t={time},v0={good}")),
        Some(format!("t={time},v1={}", "0".repeat(64))),
        Some(format!("t={},v1={good}", time + 60)),
        Some(signature("whsec_of-another-gateway", time, &body)),
        Some(signature("", time, &body)),
        Some(signature(SECRET, time, b"")),
    ];
    for header in &forged {
        let response = gateway.send(header.as_deref(), &body).await;
        is(&response, 401, "bad_signature");
        assert_eq!(response.header("content-type"), "application/problem+json");
    }
    // What was signed is not what comes, be it by one byte.
    let header = signature(SECRET, now(), &body);
    for at in (0..body.len()).step_by(7) {
        let mut changed = body.clone();
        changed[at] ^= 1;
        is(&gateway.send(Some(&header), &changed).await, 401, "bad_signature");
    }
    let longer = [body.as_slice(), b" "].concat();
    is(&gateway.send(Some(&header), &longer).await, 401, "bad_signature");
    // What somebody has overheard is of no use later, nor at another door.
    for time in [now() - 310, now() + 310] {
        let late = signature(SECRET, time, &body);
        is(&gateway.send(Some(&late), &body).await, 401, "signature_expired");
    }
    is(&other.send(Some(&header), &body).await, 401, "bad_signature");
    let elsewhere = |gateway: &Gateway, name: &str, tenant: &str| Gateway {
        http: gateway.http.of(tenant),
        name: name.to_owned(),
        secret: SECRET.to_owned(),
    };
    is(&elsewhere(&gateway, "none", "t1").tell(&body).await, 404, "unknown_gateway");
    is(&elsewhere(&gateway, "stripe", "t2").tell(&body).await, 404, "unknown_gateway");
    is(&elsewhere(&gateway, "stripe", "t9").tell(&body).await, 404, "unknown_tenant");
    is(&gateway.tell(&vec![b'a'; 65 * 1024]).await, 413, "payload_too_large");

    assert_eq!(inbox().await, before, "nothing was sent on");
    assert_eq!(events(&fleet, "p1").await, ["initiated"]);
    assert!(counted(&fleet, "forged") > 40);
    assert_eq!(counted(&fleet, "taken"), 0);
    is(&gateway.tell(&body).await, 200, "ok");
    assert_eq!(producer.payment_status("p1").await, "captured");
    fleet.finish().await;
}

#[tokio::test]
async fn s7_10_messages_that_cannot_be_read_are_refused_and_those_of_others_passed_over() {
    let (fleet, _, gateway) = fleet().await;
    for body in [&b""[..], b"{}", b"[]", b"\xff\xfe", b"{\"id\":\"evt_1\"}"] {
        is(&gateway.tell(body).await, 400, "malformed");
    }
    let strange = json!({"id": "pi_1", "amount": -1, "currency": "eur"});
    is(
        &gateway.tell(&bytes("evt_1", "payment_intent.succeeded", &strange)).await,
        400,
        "malformed",
    );
    let nothing = intent("evt_2", "succeeded", "p1", "pi_1", 0);
    is(&gateway.tell(&nothing).await, 422, "nothing_captured");
    is(&gateway.tell(&nothing).await, 422, "nothing_captured");

    let object = json!({"id": "pi_9", "amount": 5, "currency": "eur"});
    for kind in ["payment_intent.created", "payment_intent.succeeded", "customer.created", "x"] {
        is(&gateway.tell(&bytes("evt_3", kind, &object)).await, 200, "ignored");
    }
    assert_eq!(events(&fleet, "p1").await, ["initiated"]);
    assert_eq!(counted(&fleet, "ignored"), 4);
    assert_eq!(counted(&fleet, "refused"), 8);
    fleet.finish().await;
}

#[tokio::test]
async fn s7_10_messages_come_early_late_and_in_any_order() {
    let (fleet, producer, gateway) = fleet().await;
    producer.cart_of("c2", "menu", "bob", &[("i1", 1000, 1)]).await;
    // The payment is not there yet, nor is its capture: it comes while edge asks again.
    let early = intent("evt_1", "succeeded", "p2", "pi_2", 1000);
    let (told, _) = tokio::join!(gateway.tell(&early), producer.initiate("p2", "c2"));
    is(&told, 200, "ok");
    assert_eq!(producer.payment_status("p2").await, "captured");
    let (told, captured) =
        (refunded("evt_2", "p1", "pi_1", 400), intent("evt_3", "succeeded", "p1", "pi_1", 1000));
    let (told, captured) = tokio::join!(gateway.tell(&told), gateway.tell(&captured));
    is(&told, 200, "ok");
    is(&captured, 200, "ok");
    // An earlier refund that is told of later is part of what is known.
    is(&gateway.tell(&refunded("evt_4", "p1", "pi_1", 1000)).await, 200, "ok");
    is(&gateway.tell(&refunded("evt_5", "p1", "pi_1", 700)).await, 200, "ignored");
    is(&gateway.tell(&intent("evt_6", "payment_failed", "p1", "pi_1", 1000)).await, 200, "ignored");
    let view = producer.view("payment.p1", None).await.body();
    let core = (&view["core"]["status"], &view["core"]["refunded_amount"]);
    assert_eq!(core, (&json!("refunded"), &json!(1000)));

    // What never comes is to be told again: the id is not used up by it.
    producer.cart_of("c3", "menu", "cid", &[("i1", 1000, 1)]).await;
    producer.initiate("p3", "c3").await;
    let back = refunded("evt_7", "p3", "pi_3", 250);
    let undecided = gateway.tell(&back).await;
    is(&undecided, 503, "payment_not_captured_yet");
    assert!(!undecided.header("retry-after").is_empty());
    is(&gateway.tell(&intent("evt_8", "payment_failed", "p3", "pi_3", 1000)).await, 200, "ok");
    is(&gateway.tell(&intent("evt_9", "succeeded", "p3", "pi_3", 1000)).await, 200, "ok");
    assert_eq!(producer.payment_status("p3").await, "late_captured");
    is(&gateway.tell(&back).await, 200, "ok");
    let task: (i64, String) =
        sqlx::query_as("select refunded, status from brigade.refund_tasks where payment_id = 'p3'")
            .fetch_one(&fleet.sql)
            .await
            .expect("sql");
    assert_eq!(task, (250, "open".to_owned()));
    fleet.finish().await;
}

#[tokio::test]
async fn s7_10_a_secret_is_replaced_without_a_gap_and_shown_to_nobody() {
    let (fleet, _, gateway) = fleet().await;
    let folder = tempfile::tempdir().expect("a folder");
    let secret_file = |secret: &str| {
        let file = folder.path().join(secret);
        fs::write(&file, format!("{secret}\n")).expect("written");
        file.display().to_string()
    };
    let next = Gateway { secret: "whsec_the-next-secret-of-it".to_owned(), ..gateway.again() };
    let add = format!("gateways add t1 stripe --secret-file {}", secret_file(&next.secret));
    let body = |n: u32| intent(&format!("evt_{n}"), "created", "p1", "pi_1", 1000);
    is(&next.tell(&body(1)).await, 401, "bad_signature");
    let fingerprint = printed(&fleet, &add).await;
    is(&gateway.tell(&body(2)).await, 200, "ignored");
    is(&next.tell(&body(3)).await, 200, "ignored");
    // A gateway that changes its secret signs with both.
    let both = format!(
        "{},v1={}",
        signature(&gateway.secret, now(), &body(4)),
        sign("whsec_of-nobody-at-all", now(), &body(4))
    );
    is(&gateway.send(Some(&both), &body(4)).await, 200, "ignored");

    let third =
        format!("gateways add t1 stripe --secret-file {}", secret_file("whsec_a-third-one"));
    assert!(process::refused(&fleet, &third).await.contains("has 2 secrets"));
    let listed: Vec<Value> = printed(&fleet, "gateways ls --tenant t1 --json")
        .await
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect();
    let shown = |at: usize| listed[at]["secret"].as_str().expect("a fingerprint");
    assert_eq!(listed.len(), 2, "{listed:?}");
    assert!(fingerprint.contains(shown(1)), "{fingerprint} {listed:?}");
    assert!(!format!("{listed:?}").contains("whsec"), "{listed:?}");

    assert!(process::refused(&fleet, "gateways rm t1 stripe").await.contains("--yes"));
    printed(&fleet, &format!("gateways rm t1 stripe --secret {}", shown(0))).await;
    is(&gateway.tell(&body(5)).await, 401, "bad_signature");
    is(&next.tell(&body(6)).await, 200, "ignored");
    printed(&fleet, "gateways rm t1 stripe --yes").await;
    is(&next.tell(&body(7)).await, 404, "unknown_gateway");
    let logged: Vec<String> = sqlx::query_scalar(
        "select detail ->> 'action' from brigade.security_log where kind = 'tenant_changed'
         order by seq",
    )
    .fetch_all(&fleet.sql)
    .await
    .expect("sql");
    assert_eq!(logged.iter().filter(|action| action.starts_with("gateway_secret")).count(), 4);
    fleet.finish().await;
}

/// A command-handler dies at this point of a message; the gateway tells it again until it is taken.
/// Tells of an event until it is taken; the handler dies at this point of it. Returns the code.
async fn told_to_one_who_dies(
    fleet: &mut TestFleet,
    gateway: &Gateway,
    body: &[u8],
    point: &str,
) -> String {
    fleet.stop_one(WorkerName::CommandHandler).await;
    let mut dying = Process::start(fleet, &[WorkerName::CommandHandler], Some(point)).await;
    let telling = async {
        until("the message to be taken", || async {
            let response = gateway.tell(body).await;
            assert!([200, 503].contains(&response.status), "{}", response.body());
            (response.status == 200).then(|| response.code())
        })
        .await
    };
    let restarting = async {
        assert!(!dying.ended().await.success(), "it dies at {point}");
        fleet.run(WorkerName::CommandHandler).await;
    };
    tokio::join!(telling, restarting).0
}

async fn handler_dies_at(point: &str) {
    let mut fleet = TestFleet::start().await;
    let (producer, gateway) = paying(&fleet).await;
    let body = intent("evt_1", "succeeded", "p1", "pi_1", 1000);
    assert_eq!(told_to_one_who_dies(&mut fleet, &gateway, &body, point).await, "ok");
    assert_eq!(producer.paid_and_due("cart.c1").await, (json!(1000), json!(0)), "{point}");
    assert_eq!(events(&fleet, "p1").await, ["initiated", "captured"], "{point}");
    fleet.finish().await;
}

#[tokio::test]
async fn s7_10_a_handler_killed_before_the_commit_records_nothing_twice() {
    handler_dies_at("command-handler.before_commit").await;
}

#[tokio::test]
async fn s7_10_a_handler_killed_between_commit_and_answer_records_nothing_twice() {
    handler_dies_at("command-handler.after_commit").await;
}

/// 4.00 of two captures are recorded as refunded; then the gateway tells of them, and of 3.00 more.
async fn a_recorded_refund_is_told_of_to_one_who_dies_at(point: &str) {
    let mut fleet = TestFleet::start().await;
    let (producer, gateway) = paying(&fleet).await;
    for (event, transaction) in [("evt_1", "pi_1"), ("evt_2", "pi_2")] {
        is(&gateway.tell(&intent(event, "succeeded", "p1", transaction, 1000)).await, 200, "ok");
    }
    producer.done("payment.p1.refund", json!({"amount": 400, "reason": "by the till"})).await;
    let told = refunded("evt_3", "p1", "pi_1", 400);
    assert_eq!(told_to_one_who_dies(&mut fleet, &gateway, &told, point).await, "ignored");
    let refunded_amount = async || {
        let view = producer.view("payment.p1", None).await.body();
        view["core"]["refunded_amount"].clone()
    };
    assert_eq!(refunded_amount().await, 400, "{point}");
    is(&gateway.tell(&refunded("evt_4", "p1", "pi_2", 300)).await, 200, "ok");
    assert_eq!(refunded_amount().await, 700, "{point}");
    fleet.finish().await;
}

#[tokio::test]
async fn s7_10_a_recorded_refund_is_told_of_once_though_the_handler_dies_before_the_commit() {
    a_recorded_refund_is_told_of_to_one_who_dies_at("command-handler.before_commit").await;
}

#[tokio::test]
async fn s7_10_a_recorded_refund_is_told_of_once_though_the_handler_dies_after_the_commit() {
    a_recorded_refund_is_told_of_to_one_who_dies_at("command-handler.after_commit").await;
}

#[tokio::test]
async fn s7_10_the_simulated_gateway_tells_until_it_is_taken() {
    let mut fleet = TestFleet::start().await;
    let (producer, _) = paying(&fleet).await;
    Gateway::register(&fleet, NAME, SECRET).await;
    let address = ([127, 0, 0, 1], 0).into();
    let brigade = fleet.http_url().await;
    let simulated = SimulatedGateway::start(address, brigade, SECRET.to_owned()).await;
    let simulated = simulated.expect("it starts");
    let http = HttpClient::new(simulated.url(), "payment_intents");
    let post = async |path: &str, body: Value| {
        let url = reqwest::Url::parse(&format!("{}/v1/payment_intents{path}", simulated.url()));
        let client = reqwest::Client::builder().no_proxy().build().expect("a client");
        let request = client.post(url.expect("a URL")).body(body.to_string());
        http.send(request).await
    };
    let asked = json!({"tenant": "t1", "payment": "p1", "amount": 1000, "currency": "eur"});
    let made = post("", asked).await.body();
    let id = made["id"].as_str().expect("an id").to_owned();
    // Nobody decides: it is told again and again.
    fleet.stop_one(WorkerName::CommandHandler).await;
    assert_eq!(post(&format!("/{id}/succeed"), json!({})).await.status, 200);
    until("a message that was not taken", || async {
        (counted(&fleet, "failed") > 0).then_some(())
    })
    .await;
    fleet.run(WorkerName::CommandHandler).await;
    let status = async |expected: &str| {
        until(expected, || async {
            (producer.payment_status("p1").await == expected).then_some(())
        })
        .await;
    };
    status("captured").await;
    assert_eq!(post(&format!("/{id}/refund"), json!({"amount": 400})).await.status, 200);
    assert_eq!(post(&format!("/{id}/refund"), json!({})).await.status, 200);
    status("refunded").await;
    assert_eq!(post(&format!("/{id}/refund"), json!({})).await.status, 400);
    fleet.finish().await;
}
