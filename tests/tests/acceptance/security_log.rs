//! The security log: one row for what somebody who looks for misuse wants to know, in the
//! transaction of the decision, also of a refused one.

use brigade_contracts::WorkerName;
use brigade_tests::{
    TestFleet, http_client::credentials, process::printed, producer::placed, until,
};
use serde_json::{Value, json};

#[derive(Debug, PartialEq, sqlx::FromRow)]
struct Row {
    kind: String,
    subject: String,
    actor: Option<String>,
    via: String,
    source: Option<String>,
    detail: Value,
}

async fn rows(fleet: &TestFleet) -> Vec<Row> {
    let rows = "select kind, subject, actor, via, source, detail
                from brigade.security_log where tenant = 't1' order by seq";
    sqlx::query_as(rows).fetch_all(&fleet.sql).await.expect("rows")
}

async fn count(fleet: &TestFleet, kind: &str) -> usize {
    rows(fleet).await.iter().filter(|row| row.kind == kind).count()
}

fn over_http(kind: &str, subject: &str, actor: Option<&str>, detail: Value) -> Row {
    let source = Some("127.0.0.1".to_owned());
    Row { source, via: "http".to_owned(), ..over_nats(kind, subject, actor, detail) }
}

fn over_nats(kind: &str, subject: &str, actor: Option<&str>, detail: Value) -> Row {
    let [kind, subject, via] = [kind, subject, "nats"].map(str::to_owned);
    Row { kind, subject, actor: actor.map(str::to_owned), via, source: None, detail }
}

fn wrong(user: &str) -> Value {
    let mut wrong = credentials(user);
    wrong["password"] = "Tr0ub4dor-and-3".into();
    wrong
}

#[tokio::test]
async fn each_kind_leaves_a_row_with_who_and_from_where_and_no_secret() {
    let fleet = TestFleet::start().await;
    let (http, producer) = (fleet.http_client().await, fleet.producer().await);
    let mia = http.register_and_log_in("mia").await;
    let headers = [("Command-Id", "r1"), ("Actor", "boss")];
    let roles = br#"{"roles":["customer","manager"]}"#;
    for _ in 0..2 {
        let changed = producer.request("req.t1.user.mia.change_roles", &headers, roles).await;
        assert_eq!(changed.expect("a reply").status, 200);
    }
    let ada = http.register_and_log_in("ada").await;
    let login = ada.post("user/ada/login", &credentials("ada")).await.body();
    let used = json!({"refresh_token": login["data"]["refresh_token"]});
    let next = http.post("user/ada/refresh", &used).await.body();
    let next = json!({"refresh_token": next["data"]["refresh_token"]});
    assert_eq!(http.post("user/ada/refresh", &next).await.status, 200);
    assert_eq!(http.post("user/ada/refresh", &used).await.code(), "token_reused");
    producer.adas_cart().await;
    producer.initiate("p1", "c1").await;
    assert_eq!(producer.result("p1", "captured", "g1", 1300).await.status, 200);
    assert_eq!(mia.post("payment/p1/refund", &json!({"reason": "cold"})).await.status, 200);
    producer.done("table.tb1.register", json!({"label": "5", "seats": 4})).await;
    producer.done("table.tb1.open_turn", json!({"turn_id": "u1", "party_size": 2})).await;
    let mut order = placed(&[("Soup", 500, 1)]);
    order["table_id"] = "tb1".into();
    producer.done("order.o1.place", order).await;
    // What needs no force is none.
    let free = json!({"status": "available", "force": true, "reason": "left"});
    producer.done("table.tb2.register", json!({"label": "6", "seats": 4})).await;
    assert_eq!(mia.post("table/tb2/set_status", &free).await.status, 200);
    assert_eq!(mia.post("table/tb1/set_status", &free).await.status, 200);

    let found = rows(&fleet).await;
    let [roles, reused, owed, refunded, forced] = found.as_slice() else { panic!("{found:?}") };
    let detail = json!({"before": ["customer"], "roles": ["customer", "manager"]});
    assert_eq!(*roles, over_nats("roles_changed", "user.mia", Some("boss"), detail));
    assert_eq!(*reused, over_http("refresh_token_reused", "user.ada", None, json!({})));
    assert_eq!(*owed, over_nats("refund_requested", "payment.p1", None, owed.detail.clone()));
    assert_eq!((&owed.detail["amount"], &owed.detail["reason"]), (&json!(300), &json!("surplus")));
    let mias =
        |kind, subject, detail: &Value| over_http(kind, subject, Some("mia"), detail.clone());
    assert_eq!(*refunded, mias("refund_done", "payment.p1", &refunded.detail));
    assert_eq!(refunded.detail, json!({"amount": 1300, "currency": "EUR", "reason": "cold"}));
    assert_eq!(*forced, mias("table_forced", "table.tb1", &forced.detail));
    assert_eq!(forced.detail["unpaid"], json!(["o1"]));
    fleet.finish().await;
}

#[tokio::test]
async fn failed_and_throttled_logins_are_logged_once_each() {
    let fleet = TestFleet::start().await;
    let http = fleet.http_client().await;
    let _ada = http.register_and_log_in("ada").await;
    for n in 0..5_u8 {
        // The first one is repeated.
        let id = format!("l{}", n.max(1));
        let failed = http.post_as(&id, "user/ada/login", &wrong("ada")).await;
        assert_eq!(failed.status, 401, "{}", failed.body());
    }
    assert_eq!(count(&fleet, "login_failed").await, 4);
    // However slow this machine is, the second after the last failure is not over.
    let latest = "update brigade.login_failures set at = at + interval '1 hour'";
    sqlx::query(latest).execute(&fleet.sql).await.expect("moved");
    for _ in 0..2 {
        let throttled = http.post_as("t1", "user/ada/login", &credentials("ada")).await;
        assert_eq!(throttled.code(), "too_many_attempts");
    }
    let found = rows(&fleet).await;
    let email = json!({"email": "ada@example.org"});
    assert_eq!(found[0], over_http("login_failed", "user.ada", None, email));
    let last = &found[4];
    assert_eq!(*last, over_http("login_throttled", "user.ada", None, last.detail.clone()));
    assert!(last.detail["retry_after_ms"].as_u64().is_some(), "{last:?}");
    assert_eq!(found.len(), 5);
    let text = format!("{found:?}");
    let password = credentials("ada")["password"].as_str().expect("text").to_owned();
    assert!(!text.contains(&password) && !text.contains("Tr0ub4dor"), "{text}");
    fleet.finish().await;
}

#[tokio::test]
async fn a_failed_login_is_logged_with_its_outcome_though_the_handler_dies() {
    let mut fleet = TestFleet::start().await;
    let http = fleet.http_client().await;
    for (id, at, before) in
        [("k1", "command-handler.before_commit", 0), ("k2", "command-handler.after_commit", 2)]
    {
        let armed = fleet.fail.arm(at);
        let asking = tokio::spawn({
            let http = http.clone();
            async move { http.post_as(id, "user/ada/login", &wrong("ada")).await }
        });
        armed.reached().await;
        // The batch that the login came in gets there without it.
        until(at, || async { (count(&fleet, "login_failed").await == before).then_some(()) }).await;
        fleet.take(WorkerName::CommandHandler).kill().await;
        assert_eq!(count(&fleet, "login_failed").await, before, "{at}");
        fleet.fail.disarm(at);
        fleet.run(WorkerName::CommandHandler).await;
        let _either = asking.await.expect("no panic");
        let again = http.post_as(id, "user/ada/login", &wrong("ada")).await;
        assert_eq!(again.status, 401, "{at}: {}", again.body());
        assert_eq!(count(&fleet, "login_failed").await, before.max(1), "{at}");
    }
    fleet.finish().await;
}

#[tokio::test]
async fn rows_are_kept_for_90_days() {
    let fleet = TestFleet::empty().await;
    let rows = "insert into brigade.security_log (at, tenant, kind, via, subject, detail)
                select now() - make_interval(days => case when n <= 1250 then 91 else 89 end),
                       't1', 'login_failed', 'http', 'user.' || n, '{}'
                from generate_series(1, 2500) n order by n";
    sqlx::query(rows).execute(&fleet.sql).await.expect("written");
    let handler = fleet.instance(WorkerName::CommandHandler);
    until("old rows to go", || async {
        let left = "select count(*), min(seq) from brigade.security_log";
        let left: (i64, i64) = sqlx::query_as(left).fetch_one(&fleet.sql).await.expect("a row");
        assert!(left.0 >= 1250);
        (left == (1250, 1251)).then_some(())
    })
    .await;
    handler.stop().await;
}

#[tokio::test]
async fn an_operator_lists_what_happened() {
    let fleet = TestFleet::empty().await;
    let rows = r#"insert into brigade.security_log
                      (at, tenant, kind, actor, via, source, subject, command_id, detail)
                  values ('2026-01-02T03:04:05Z', 't1', 'login_failed', null, 'http', '192.0.2.7',
                          'user.ada', 'ada..k1', '{"email":"ada@example.org"}'),
                         ('2026-01-03T03:04:05Z', 't1', 'refund_done', 'mia', 'http', null,
                          'payment.p1', 'mia.k1', '{"reason":"a\u009b31m"}'),
                         ('2026-01-04T03:04:05Z', 't2', 'roles_changed', E'x\u001b[2J', 'nats',
                          null, 'user.bob', 'k2', '{}')"#;
    sqlx::raw_sql(rows).execute(&fleet.sql).await.expect("written");
    let list = async |with: &str| printed(&fleet, &format!("security-log ls {with}")).await;
    let all = list("--limit 9").await;
    assert!(!all.contains(['\u{1b}', '\u{9b}']), "{all}");
    let at = |text: &str| all.find(text).unwrap_or_else(|| panic!("{text} in {all}"));
    assert!(at("user.bob") < at("payment.p1") && at("payment.p1") < at("user.ada"), "{all}");
    for (with, subjects) in [
        ("--tenant t1", &["payment.p1", "user.ada"][..]),
        ("--kind login_failed", &["user.ada"]),
        ("--since 2026-01-03T00:00:00Z", &["user.bob", "payment.p1"]),
        ("--tenant t1 --since 2026-01-03T00:00:00Z", &["payment.p1"]),
        ("--limit 1", &["user.bob"]),
        ("--tenant none", &[]),
    ] {
        let listed = list(&format!("{with} --json")).await;
        assert!(!listed.contains(['\u{1b}', '\u{9b}']), "{listed}");
        let found: Vec<Value> = listed
            .lines()
            .filter(|line| line.starts_with('{'))
            .map(|line| serde_json::from_str(line).expect("JSON"))
            .collect();
        let found: Vec<_> =
            found.iter().map(|row| row["subject"].as_str().expect("text")).collect();
        assert_eq!(found, subjects, "{with}");
    }
}
