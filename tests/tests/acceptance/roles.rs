//! Roles of credentials: each does what its name says and nothing else.
//!
//! What is expected stands in tables that were written by hand, not taken from the code.

use std::collections::BTreeSet;

use async_nats::jetstream;
use brigade_contracts::{cart, order, payment, product, table, user};
use brigade_tests::{Producer, RawClient, SUPERUSER, TestFleet};
use futures::StreamExt;
use serde_json::json;

/// Users of `t1` and the letter of their role in the tables below.
const USERS: &[(&str, char)] = &[
    ("t1-backend", 'b'),
    ("t1-producer", 'b'),
    ("t1-till", 't'),
    ("t1-gateway", 'g'),
    ("t1-screen", 's'),
    ("t1-watcher", 's'),
];

/// Who may send each verb, by either door.
const VERBS: &[(&str, &[&str], &str)] = &[
    ("cart", &["open", "invite", "join", "leave", "add_item", "set_item", "remove_item"], "bt"),
    ("cart", &["commit_cod", "claim", "lock", "bind_transaction", "extend", "unlock"], "bt"),
    ("cart", &["check_out", "abandon"], "bt"),
    ("payment", &["initiate", "confirm_cash", "cancel"], "bt"),
    ("payment", &["bind_transaction", "record_result"], "bg"),
    ("payment", &["refund", "settle"], "b"),
    ("order", &["place", "accept", "prepare", "ready", "serve", "complete", "cancel"], "bt"),
    ("table", &["register", "open_turn", "close_turn", "set_status"], "bt"),
    ("product", &["set", "withdraw"], "b"),
    ("user", &["register", "login", "refresh", "logout", "end_session", "update_profile"], "b"),
    ("user", &["change_password", "change_email", "request_password_reset"], "b"),
    ("user", &["reset_password", "suspend", "resume", "erase"], "b"),
    ("user", &["change_roles", "register_subscription"], "b"),
    ("user", &["activate_subscription", "cancel_subscription"], "b"),
    ("cart", &["expire_lock", "rebuild_cache"], ""),
    ("table", &["reconcile", "rebuild_cache"], ""),
    ("payment", &["rebuild_cache", "expire_lock"], ""),
    ("order", &["rebuild_cache", "reconcile"], ""),
    ("user", &["rebuild_cache"], ""),
    ("product", &["rebuild_cache"], ""),
    // No verbs of these: whoever may send all is told so.
    ("cart", &["confirm_cash", "record_result"], "b"),
    ("order", &["bind_transaction", "initiate", "lock"], "b"),
    ("basket", &["open"], "b"),
];

/// Who may ask what, behind `q.t1.`.
const QUERIES: &[(&str, &str)] = &[
    ("view.cart.c1", "bts"),
    ("view.order.o1", "bts"),
    ("view.payment.p1", "bts"),
    ("view.table.tb1", "bts"),
    ("view.product.s1", "bts"),
    ("active_orders", "bts"),
    ("products", "bts"),
    ("tables", "bts"),
    ("ended_orders", "bts"),
    ("carts.ada", "bt"),
    ("orders.ada", "bt"),
    ("refund_tasks", "b"),
    ("unknown_payments", "b"),
    ("lock.ada", "bt"),
    ("lock_history.ada", "b"),
    ("day_close", "b"),
    ("outcome.k1", "b"),
    ("user.ada.state", "b"),
    ("user.ada.validate", "b"),
    ("view", "b"),
    ("view.cart.c1.core", "b"),
    ("active_orders.x", "b"),
];

/// Subjects on which nobody of a tenant may publish.
const NOBODYS: &[&str] = &[
    "cmd.t1",
    "req.t1",
    "q.t1",
    "cmd",
    "req.cart.c1.open",
    "cmd.t11.cart.c1.open",
    "cmd.T1.cart.c1.open",
    "outcome.t1.k1",
    "live.views.t1.cart.c1.core",
    "live.versions.t1.cart.c1",
    "live.money.t1.refund_task.p1",
    "evt.t1.cart.opened.00",
    "timer.lock.t1.c1.1",
    "due.lock.t1.c1.1",
    "dlq.edge.x",
    "outbox.wake",
    "outbox.relays",
    "$KV.versions.t1.cart.c1",
    "$KV.views.t1.cart.c1.core",
    "$KV.active_orders.t1.o1.core",
    "$KV.cart_locks.t1.ada",
    "$KV.user_state.t1.ada.auth",
    "$KV.attempts.edge.x",
    "$JS.API.INFO",
    "$JS.API.STREAM.NAMES",
    "$JS.API.STREAM.LIST",
    "$JS.API.STREAM.INFO.COMMANDS",
    "$JS.API.STREAM.CREATE.MINE",
    "$JS.API.STREAM.UPDATE.COMMANDS",
    "$JS.API.STREAM.PURGE.COMMANDS",
    "$JS.API.STREAM.DELETE.COMMANDS",
    "$JS.API.STREAM.SNAPSHOT.COMMANDS",
    "$JS.API.STREAM.MSG.GET.COMMANDS",
    "$JS.API.STREAM.MSG.GET.KV_user_state",
    "$JS.API.STREAM.MSG.DELETE.COMMANDS",
    "$JS.API.DIRECT.GET.KV_views",
    "$JS.API.CONSUMER.CREATE.COMMANDS",
    "$JS.API.CONSUMER.DURABLE.CREATE.COMMANDS.x",
    "$JS.API.CONSUMER.DELETE.COMMANDS.command-handler",
    "$JS.API.CONSUMER.MSG.NEXT.COMMANDS.command-handler",
    "$JS.API.CONSUMER.PAUSE.COMMANDS.command-handler",
    "$JS.ACK.COMMANDS.command-handler.1.1.1.1.1",
    "$JS.FC.KV_views.x",
    "$SRV.PING",
    "$SRV.STATS",
    "$SYS.REQ.SERVER.PING",
    "$SYS.REQ.USER.INFO",
    "$SYS.ACCOUNT.BRIGADE.CONNECT",
    "_R_.x.y",
    "_R_.x",
    "hooks.t1.password_reset",
    "hooks.t2.password_reset",
    "_INBOX.edge.x",
    "_INBOX.operator.x",
    "_INBOX.x",
];

/// Who may hear what, behind `live.` and others; `TENANT` stands for `t1`, and for nobody's `t2`.
const HEARD: &[(&str, &str)] = &[
    ("outcome.TENANT.>", "b"),
    ("outcome.TENANT.k1", "b"),
    ("live.*.TENANT.>", "bts"),
    ("live.views.TENANT.>", "bts"),
    ("live.views.TENANT.cart.c1.core", "bts"),
    ("live.active_orders.TENANT.*.core", "bts"),
    ("live.cart_locks.TENANT.ada", "bts"),
    ("live.versions.TENANT.>", "bts"),
    ("live.versions.TENANT.cart.c1", "bts"),
    ("live.versions.TENANT.user.>", "b"),
    ("live.versions.TENANT.user.ada", "b"),
    ("live.money.TENANT.>", "b"),
    ("live.money.TENANT.refund_task.p1", "b"),
    ("live.user_state.TENANT.>", "b"),
    ("live.user_state.TENANT.ada.auth", "b"),
    ("hooks.TENANT.>", "b"),
    ("hooks.TENANT.password_reset", "b"),
    ("cmd.TENANT.>", ""),
    ("req.TENANT.>", ""),
    ("req.TENANT.payment.*.record_result", ""),
    ("q.TENANT.>", ""),
    ("evt.TENANT.>", ""),
    ("$KV.views.TENANT.>", ""),
    ("_INBOX.TENANT-backend.>", "B"),
    ("_INBOX.TENANT-producer.>", "P"),
    ("_INBOX.TENANT-till.>", "T"),
    ("_INBOX.TENANT-gateway.>", "G"),
    ("_INBOX.TENANT-screen.>", "S"),
    ("_INBOX.TENANT-watcher.>", "W"),
];

/// Subjects that nobody of a tenant may hear.
const UNHEARD: &[&str] = &[
    ">",
    "*",
    "*.*",
    "*.t1.>",
    "cmd.>",
    "req.>",
    "q.>",
    "outcome.>",
    "outcome.*.k1",
    "live.>",
    "live.*.*.>",
    "live.views.>",
    "live.*.t1",
    "evt.>",
    "dlq.>",
    "due.>",
    "timer.>",
    "outbox.>",
    "$KV.>",
    "$JS.>",
    "$JS.API.>",
    "$JS.EVENT.>",
    "$JS.ACK.>",
    "$SYS.>",
    "$SRV.>",
    "$SRV.PING",
    "hooks.>",
    "hooks.*.password_reset",
    "_R_.>",
    "_INBOX.>",
    "_INBOX.*",
    "_INBOX.*.*",
    "_INBOX.edge.>",
    "_INBOX.operator.>",
];

/// Every subject of the tables on which somebody may publish, with the letters of their roles.
fn published() -> Vec<(String, &'static str)> {
    let mut all = Vec::new();
    for (aggregate, verbs, roles) in VERBS {
        for verb in *verbs {
            for door in ["cmd", "req"] {
                all.push((format!("{door}.t1.{aggregate}.x1.{verb}"), *roles));
                all.push((format!("{door}.t2.{aggregate}.x1.{verb}"), ""));
            }
        }
    }
    for (query, roles) in QUERIES {
        all.push((format!("q.t1.{query}"), *roles));
        all.push((format!("q.t2.{query}"), ""));
    }
    all.extend(NOBODYS.iter().map(|subject| ((*subject).to_owned(), "")));
    all.extend(USERS.iter().map(|(user, _)| (format!("_INBOX.{user}.x"), "")));
    all
}

/// Every subject of the tables to which somebody may subscribe, alone and in a queue group.
fn heard() -> Vec<(String, &'static str)> {
    let own = HEARD.iter().map(|(subject, roles)| (subject.replace("TENANT", "t1"), *roles));
    let others = HEARD.iter().map(|(subject, _)| (subject.replace("TENANT", "t2"), ""));
    let nobodys = UNHEARD.iter().map(|subject| ((*subject).to_owned(), ""));
    let all: Vec<_> = own.chain(others).chain(nobodys).collect();
    let queued = all.iter().map(|(subject, roles)| (format!("{subject} workers"), *roles));
    all.iter().cloned().chain(queued).collect()
}

/// Returns the subjects of refusals of this kind, as `subject` or `subject queue`.
fn subjects(refusals: &[String], kind: &str) -> BTreeSet<String> {
    let subject = |refusal: &String| {
        let (_, rest) = refusal.split_once(&format!("Permissions Violation for {kind} to "))?;
        let mut quoted = rest.split('"').skip(1).step_by(2);
        Some(quoted.by_ref().collect::<Vec<_>>().join(" "))
    };
    refusals.iter().filter_map(subject).collect()
}

#[test]
fn the_table_by_hand_has_every_verb() {
    for (aggregate, names) in [
        ("cart", cart::Verb::NAMES),
        ("payment", payment::Verb::NAMES),
        ("order", order::Verb::NAMES),
        ("table", table::Verb::NAMES),
        ("user", user::Verb::NAMES),
        ("product", product::Verb::NAMES),
    ] {
        for verb in names {
            let has = VERBS.iter().any(|row| row.0 == aggregate && row.1.contains(verb));
            assert!(has, "{aggregate} {verb}");
        }
    }
}

#[tokio::test]
async fn s5_10_each_role_may_what_its_name_says_and_nothing_else() {
    let fleet = TestFleet::empty().await;
    for (user, role) in USERS {
        let mut raw = RawClient::connect(&fleet.nats_url(user)).await;
        let refused = |all: Vec<(String, &str)>, letters: &[char]| -> BTreeSet<String> {
            let all = all.into_iter().filter(|(_, roles)| !roles.contains(letters));
            all.map(|(subject, _)| subject).collect()
        };
        for (subject, _) in published() {
            raw.publish(subject.as_bytes(), b"", b"", b"{}").await;
        }
        let refusals = raw.refused().await;
        let found = subjects(&refusals, "Publish");
        assert_eq!(found, refused(published(), &[*role]), "{user} publishes");
        assert_eq!(refusals.len(), found.len(), "{refusals:?}");

        // Of inboxes each user has its own, also where two have the same role.
        let second = ["t1-producer", "t1-watcher"].contains(user);
        let inbox = match role {
            'b' if second => 'P',
            's' if second => 'W',
            role => role.to_ascii_uppercase(),
        };
        for (subject, _) in heard() {
            raw.subscribe(subject.as_bytes()).await;
        }
        let refusals = raw.refused().await;
        let found = subjects(&refusals, "Subscription");
        assert_eq!(found, refused(heard(), &[*role, inbox]), "{user} subscribes");
        assert_eq!(refusals.len(), found.len(), "{refusals:?}");
    }
}

/// The fleet asks, and the reply subject is one that the server has made.
#[tokio::test]
async fn s5_10_a_backend_answers_a_hook_once_and_nothing_else() {
    let fleet = TestFleet::empty().await;
    let handler = fleet.connect("command-handler").await;
    for user in ["t1-backend", "t1-producer"] {
        let mut raw = RawClient::connect(&fleet.nats_url(user)).await;
        raw.subscribe(b"hooks.t1.>").await;
        assert_eq!(raw.refused().await, Vec::<String>::new());
        let handler = handler.clone();
        let ask = async move { handler.request("hooks.t1.password_reset", "{}".into()).await };
        let answer = tokio::spawn(ask);
        let asked = raw.next().await;
        let reply = String::from_utf8(asked.reply).unwrap();
        assert!(reply.starts_with("_R_."), "{reply}");

        // Also while an answer is due.
        let others = ["_R_.x.y", &format!("{reply}x"), "_INBOX.command-handler.x", "evt.t1.x"];
        let others = BTreeSet::from(others.map(str::to_owned));
        for subject in &others {
            raw.publish(subject.as_bytes(), b"", b"", b"forged").await;
        }
        assert_eq!(subjects(&raw.refused().await, "Publish"), others);
        raw.publish(reply.as_bytes(), b"", b"", b"done").await;
        assert_eq!(raw.refused().await, Vec::<String>::new());
        assert_eq!(answer.await.unwrap().unwrap().payload, "done");
        raw.publish(reply.as_bytes(), b"", b"", b"again").await;
        assert_eq!(subjects(&raw.refused().await, "Publish"), BTreeSet::from([reply]));
    }
}

#[tokio::test]
async fn s5_10_a_wide_subscription_brings_a_screen_nothing_of_users() {
    let fleet = TestFleet::empty().await;
    let mut fleets = RawClient::connect(&fleet.nats_url(SUPERUSER)).await;
    let of_users = [
        "live.versions.t1.user.ada",
        "live.user_state.t1.ada.auth",
        "live.money.t1.refund_task.p1",
    ];
    let of_others = "live.versions.t1.cart.c1";
    for (user, hears_of_users) in [("t1-backend", true), ("t1-till", false), ("t1-screen", false)] {
        let mut raw = RawClient::connect(&fleet.nats_url(user)).await;
        raw.subscribe(b"live.*.t1.>").await;
        assert_eq!(raw.refused().await, Vec::<String>::new());
        for subject in of_users.iter().chain([&of_others]) {
            fleets.publish(subject.as_bytes(), b"", b"", b"{}").await;
        }
        fleets.flush().await;
        let heard = raw.flush().await.into_iter().map(|message| message.subject);
        let expected = of_users.into_iter().filter(|_| hears_of_users).chain([of_others]);
        let expected: Vec<_> = expected.map(|subject| subject.as_bytes().to_vec()).collect();
        assert_eq!(heard.collect::<Vec<_>>(), expected, "{user}");
    }
}

#[tokio::test]
async fn s5_10_a_till_a_gateway_and_a_screen_do_their_days_work() {
    let fleet = TestFleet::start().await;
    let connect = async |role| Producer::new(fleet.connect(&format!("t1-{role}")).await, "t1");
    let (till, gateway, screen) =
        (connect("till").await, connect("gateway").await, connect("screen").await);
    let mut rows = screen.client.subscribe("live.active_orders.t1.>").await.unwrap();
    screen.client.flush().await.unwrap();

    till.done("table.tb1.register", json!({"label": "Window 1", "seats": 4})).await;
    till.done("table.tb1.open_turn", json!({"turn_id": "u1"})).await;
    let item = json!({"sku": "P-1", "name": "Pizza", "unit_price": 1250, "quantity": 2});
    let order = json!({"table_id": "tb1", "currency": "EUR", "items": [item]});
    for id in ["o1", "o2"] {
        till.done(&format!("order.{id}.place"), order.clone()).await;
        till.done(&format!("order.{id}.accept"), json!({})).await;
    }
    assert!(rows.next().await.unwrap().subject.starts_with("live.active_orders.t1.o1."));
    assert_eq!(till.view("table.tb1", None).await.body()["core"]["status"], "occupied");

    // The guest first wants to pay by card, then in cash.
    let pay = |id: &str, method: &str| json!({"target": {"order": id}, "method": method});
    till.done("payment.p1.initiate", pay("o1", "card")).await;
    till.done("payment.p1.cancel", json!({"reason": "pays in cash"})).await;
    till.done("payment.p2.initiate", pay("o1", "cash")).await;
    till.done("payment.p2.confirm_cash", json!({"amount": 2500, "currency": "EUR"})).await;

    // A result that was stored first: its outcome is the reply to the same command.
    till.done("payment.p3.initiate", pay("o2", "card")).await;
    gateway.done("payment.p3.bind_transaction", json!({"transaction_id": "g1"})).await;
    let result = json!({
        "result": "captured", "transaction_id": "g1", "amount": 2500, "currency": "EUR",
        "occurred_at": "2026-01-02T03:04:05.678Z",
    });
    let mut headers = async_nats::HeaderMap::new();
    headers.insert("Command-Id", "g1-captured");
    let result = result.to_string();
    let js = jetstream::new(gateway.client.clone());
    let subject = "t1.payment.p3.record_result";
    let stored = js.publish_with_headers(format!("cmd.{subject}"), headers, result.clone().into());
    stored.await.unwrap().await.unwrap();
    let headers = [("Command-Id", "g1-captured")];
    let told = gateway.request(&format!("req.{subject}"), &headers, result.as_bytes()).await;
    let told = told.unwrap().body();
    assert_eq!((&told["status"], &told["code"]), (&json!(200), &json!("ok")), "{told}");

    // All is paid, so the party has left.
    assert_eq!(screen.view("table.tb1", None).await.body()["core"]["status"], "available");
    let listed = screen.request("q.t1.active_orders", &[], b"").await.unwrap().body();
    assert_eq!(listed["rows"].as_array().unwrap().len(), 2, "{listed}");
    fleet.finish().await;
}
