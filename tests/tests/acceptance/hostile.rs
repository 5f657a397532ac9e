//! A tenant's programs that mean harm, byte by byte, each with one credential: nothing of another
//! tenant is read, written or silenced.

use std::collections::BTreeMap;

use brigade_contracts::permissions::inbox_prefix;
use brigade_tests::{
    PATIENCE, Producer, RawClient, TestFleet, check, raw_client::RawMessage, until,
};
use serde_json::{Value, json};
use tokio::time::timeout;

/// Stands in everything of `t2` that another tenant cannot know.
const SECRET: &str = "hidden";

/// Subjects of others, of the fleet and of the server, as a subject to publish on and as the reply
/// subject of a message on one's own.
const TARGETS: &[&str] = &[
    "cmd.t2.cart.c9.abandon",
    "cmd.t2.cart.c9.rebuild_cache",
    "cmd.t1.cart.c9.expire_lock",
    "cmd.t2.user.u9.login",
    "req.t2.cart.c9.abandon",
    "req.t2.user.u9.change_roles",
    "req.t1.cart.c9.rebuild_cache",
    "q.t2.view.cart.c9",
    "q.t2.active_orders",
    "q.t2.outcome.k9",
    "q.t2.lock.u9",
    "q.t2.lock_history.u9",
    "q.t2.user.u9.state",
    "outcome.t2.k9",
    "live.views.t2.cart.c9.core",
    "live.versions.t2.cart.c9",
    "evt.t2.cart.abandoned.00",
    "timer.lock.t2.c9.1",
    "due.lock.t2.c9.1",
    "dlq.command-handler.cmd.t2.cart.c9.join",
    "outbox.wake",
    "outbox.relays",
    "hooks.t2.password_reset",
    "$KV.versions.t2.cart.c9",
    "$KV.versions.canary",
    "$KV.views.t2.cart.c9.core",
    "$KV.active_orders.t2.o9.core",
    "$KV.cart_locks.t2.u9",
    "$KV.user_state.t2.u9.auth",
    "$KV.attempts.command-handler.COMMANDS.1",
    "$JS.API.INFO",
    "$JS.API.STREAM.NAMES",
    "$JS.API.STREAM.INFO.COMMANDS",
    "$JS.API.STREAM.CREATE.MINE",
    "$JS.API.STREAM.UPDATE.COMMANDS",
    "$JS.API.STREAM.PURGE.COMMANDS",
    "$JS.API.STREAM.DELETE.EVENTS",
    "$JS.API.STREAM.SNAPSHOT.EVENTS",
    "$JS.API.STREAM.MSG.GET.KV_views",
    "$JS.API.STREAM.MSG.DELETE.COMMANDS",
    "$JS.API.DIRECT.GET.KV_views",
    "$JS.API.CONSUMER.CREATE.COMMANDS",
    "$JS.API.CONSUMER.MSG.NEXT.COMMANDS.command-handler",
    "$JS.API.CONSUMER.DELETE.COMMANDS.command-handler",
    "$JS.ACK.COMMANDS.command-handler.1.1.1.1.1",
    "$JS.FC.KV_active_orders.x",
    "$SRV.PING",
    "$SRV.STATS",
    "$SYS.REQ.SERVER.PING",
    "$SYS.REQ.ACCOUNT.BRIGADE.CONNZ",
    "$SYS.REQ.ACCOUNT.T-t2.CLAIMS.UPDATE",
    "_INBOX.edge.alive.x",
    "_INBOX.command-handler.x",
    "_INBOX.operator.x",
    "_INBOX.t2-backend.x",
    "_INBOX.",
    "_INBOX.a..b",
    "_R_.x.y",
    "_GR_.x.y",
    // As a reply subject: a message of a fast batch.
    "x.batch.10.fail.1.0.$FI",
];

/// Subscriptions to what is another's, the fleet's or the server's.
const LISTENED: &[&str] = &[
    ">",
    "*",
    "*.*",
    "*.*.*",
    "*.t2.>",
    "*.*.t2.>",
    "cmd.>",
    "cmd.t2.>",
    "req.>",
    "req.t2.>",
    "req.> command-handler",
    "q.>",
    "q.t2.>",
    "q.> edge",
    "q.*.view.*.* q",
    "outcome.>",
    "outcome.t2.>",
    "outcome.*.k9",
    "live.>",
    "live.*.t2.>",
    "live.views.*.cart.c9.core",
    "evt.>",
    "evt.t2.>",
    "dlq.>",
    "due.>",
    "timer.>",
    "outbox.>",
    "outbox.wake",
    "hooks.>",
    "hooks.t2.>",
    "$KV.>",
    "$KV.views.t2.cart.c9.core",
    "$JS.>",
    "$JS.API.>",
    "$JS.EVENT.ADVISORY.>",
    "$JS.ACK.>",
    "$SYS.>",
    "$SRV.>",
    "$SRV.PING",
    "_R_.>",
    "_INBOX.>",
    "_INBOX.*.>",
    "_INBOX.edge.>",
    "_INBOX.command-handler.>",
    "_INBOX.t2-backend.>",
    "_INBOX.operator.>",
];

/// The server refuses the message before it comes to the stream.
const DENIED: &str = "Permissions Violation";

/// Headers by which a sender steers the server, and what the stream answers to a command with them:
/// a part of its refusal; nothing where it stores the command.
const STEERING: &[(&str, &str)] = &[
    ("Nats-Rollup: all", "rollup not permitted"),
    ("Nats-Rollup: sub", "rollup not permitted"),
    ("Nats-Msg-Id: order-1042", ""),
    ("Nats-Expected-Stream: COMMANDS", ""),
    ("Nats-Expected-Stream: EVENTS", "expected stream does not match"),
    ("Nats-Expected-Last-Sequence: 999999", "wrong last sequence"),
    ("Nats-Expected-Last-Subject-Sequence: 999999", "wrong last sequence"),
    ("Nats-Expected-Last-Subject-Sequence-Subject: cmd.t1.cart.none.open", "missing sequence"),
    ("Nats-Expected-Last-Msg-Id: order-1042", "wrong last msg ID"),
    ("Nats-TTL: 1s", "per-message TTL is disabled"),
    ("Nats-TTL: never", "per-message TTL is disabled"),
    (
        "Nats-Schedule: @at 2020-01-01T00:00:00Z\r\nNats-Schedule-Target: due.lock.t2.c9.1",
        "disabled",
    ),
    (
        "Nats-Schedule: @every 1s\r\nNats-Schedule-Target: cmd.t2.cart.c9.abandon",
        "message schedules is disabled",
    ),
    (
        "Nats-Schedule: @every 1s\r\nNats-Schedule-Source: cmd.t2.cart.c9.open\r\n\
         Nats-Schedule-Target: cmd.t1.cart.none.open",
        "message schedules is disabled",
    ),
    ("Nats-Schedule-Target: cmd.t2.cart.c9.abandon", ""),
    ("Nats-Schedule-Next: purge\r\nNats-Scheduler: cmd.t2.cart.c9.open", "disabled"),
    ("Nats-Scheduler: cmd.t2.cart.c9.open", "invalid"),
    ("Nats-Incr: 1", "message counters is disabled"),
    ("Nats-Counter-Sources: {}", ""),
    ("Nats-Batch-Id: b\r\nNats-Batch-Sequence: 1\r\nNats-Batch-Commit: 1", "disabled"),
    ("Nats-Batch-Id: b\r\nNats-Batch-Sequence: 1", "disabled"),
    ("Nats-Batch-Commit: 1", ""),
    ("Nats-Required-Api-Level: 999", ""),
    ("Nats-Stream-Source: COMMANDS 1 cmd.> > cmd.t2.cart.c9.abandon", "not allowed"),
    ("Nats-Last-Consumer: 1\r\nNats-Last-Stream: 1", ""),
    ("Nats-Consumer-Stalled: $JS.API.STREAM.PURGE.COMMANDS", ""),
    ("Nats-Response-Type: create", ""),
    ("Nats-Marker-Reason: Purge", ""),
    ("KV-Operation: PURGE", ""),
    ("Nats-Subject: cmd.t2.cart.c9.abandon\r\nNats-Stream: EVENTS\r\nNats-Sequence: 1", ""),
    ("Nats-Pin-Id: x", ""),
    ("Nats-Request-Info: {\"acc\":\"T-t2\"}", ""),
    ("Nats-Request-Info: {\"acc\":\"BRIGADE\",\"reply\":\"$KV.views.t2.cart.c9.core\"}", ""),
    ("nats-request-info: {\"acc\":\"T-t2\"}", ""),
    ("Nats-Trace-Dest: cmd.t2.cart.c9.abandon", DENIED),
    ("Nats-Trace-Dest: $KV.views.t2.cart.c9.core", DENIED),
    ("Nats-Trace-Dest: req.t1.cart.none.join", ""),
    ("Nats-Trace-Origin-Account: T-t2\r\nNats-Trace-Dest: live.views.t2.cart.c9.core", ""),
    ("traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", ""),
    ("Origin-Subject: cmd.t2.cart.c9.abandon\r\nDead-Nats-Request-Info: {\"acc\":\"T-t2\"}", ""),
    ("Status: 503\r\nBrigade-Status: 200", ""),
];

/// A message or a subscription.
pub enum Attempt {
    Publish { subject: String, reply: String, headers: String, payload: &'static str },
    Subscribe(&'static str),
}

const EVE: &str = r#"{"user":"eve"}"#;

impl Attempt {
    pub async fn make(&self, raw: &mut RawClient) {
        match self {
            Self::Publish { subject, reply, headers, payload } => {
                let (subject, reply) = (subject.as_bytes(), reply.as_bytes());
                raw.publish(subject, reply, headers.as_bytes(), payload.as_bytes()).await;
            }
            Self::Subscribe(subject) => raw.subscribe(subject.as_bytes()).await,
        }
    }
}

/// Everything that a program of `t1` with this inbox tries. Its commands are for a cart that is not
/// there, so of those that get through each is refused.
pub fn attempts(inbox: &str) -> Vec<Attempt> {
    let mut all = Vec::new();
    let mut number = 0;
    let mut publish = |subject: &str, reply: &str, more: &str| {
        number += 1;
        let headers = format!("NATS/1.0\r\nCommand-Id: try{number}{more}\r\n\r\n");
        let (subject, reply) = (subject.to_owned(), reply.to_owned());
        all.push(Attempt::Publish { subject, reply, headers, payload: EVE });
    };
    let own = ["cmd.t1.cart.none.join", "req.t1.cart.none.join", "q.t1.view.cart.none"];
    for target in TARGETS {
        publish(target, inbox, "");
        for subject in own {
            publish(subject, target, "");
        }
    }
    for (header, _) in STEERING {
        for subject in own.iter().chain(&["q.t1.active_orders", "cmd.t1.user.none.login"]) {
            publish(subject, inbox, &format!("\r\n{header}"));
        }
    }
    all.extend(LISTENED.iter().map(|subject| Attempt::Subscribe(subject)));
    all
}

/// The restaurant that is attacked.
struct Victim {
    producer: Producer,
    /// Hears all that it may.
    hears: RawClient,
    commands: usize,
}

impl Victim {
    async fn open(fleet: &TestFleet) -> Self {
        let producer = Producer::new(fleet.connect("t2-backend").await, "t2");
        producer.team_cart("c9", SECRET, &[]).await;
        let items = json!([{"sku": SECRET, "name": SECRET, "unit_price": 500, "quantity": 1}]);
        let order = json!({"currency": "EUR", "items": items});
        assert_eq!(producer.send("order.o9.place", order).await.status, 201);
        fleet.until_idle().await;
        let mut hears = RawClient::connect(&fleet.nats_url("t2-backend")).await;
        for subject in ["live.*.t2.>", "outcome.t2.>", "hooks.t2.>", "_INBOX.t2-backend.>"] {
            hears.subscribe(subject.as_bytes()).await;
        }
        assert_eq!(hears.refused().await, Vec::<String>::new());
        Self { producer, hears, commands: 0 }
    }

    /// Has one command decided by each door, and a query answered.
    async fn works(&mut self) {
        self.commands += 1;
        let bob = json!({"user": "bob"});
        let id = format!("d{}", self.commands);
        let outcome = self.producer.publish(&id, "cart.none.join", bob.clone()).await;
        assert_eq!((&outcome["command_id"], &outcome["status"]), (&json!(id), &json!(404)));
        assert_eq!(self.producer.send("cart.none.join", bob).await.status, 404);
        assert_eq!(self.producer.view("cart.c9", None).await.status, 200);
    }

    /// Checks that it has heard of its own doings alone, and that those still reach it.
    async fn heard_of_itself_alone(&mut self) {
        for message in self.hears.flush().await {
            let text = String::from_utf8_lossy(&message.payload).into_owned();
            assert!(!text.contains("eve") && !text.contains("COMMANDS\",\"error"), "{text}");
            // Replies to others of its programs go to inboxes that this one hears as well.
            let subject = String::from_utf8_lossy(&message.subject).into_owned();
            let own = ["outcome.t2.d", "_INBOX.t2-backend."];
            assert!(own.iter().any(|own| subject.starts_with(own)), "{subject}: {text}");
        }
        let joined = self.producer.publish("kept", "cart.c9.join", json!({"user": "bob"})).await;
        assert_eq!(joined["status"], 200, "{joined}");
        loop {
            let push = self.hears.next().await;
            if push.subject.starts_with(b"live.views.t2.cart.c9.core") {
                return;
            }
        }
    }
}

/// Returns what is stored in SQL of `t2`, and all that is in streams and buckets but commands.
async fn stored(fleet: &TestFleet) -> (BTreeMap<String, Value>, BTreeMap<String, u64>) {
    let mut rows = BTreeMap::new();
    for table in ["carts", "orders", "payments", "tables", "users", "cart_locks", "events"] {
        let query = format!(
            "select coalesce(jsonb_agg(to_jsonb(r) order by to_jsonb(r)), '[]'::jsonb)
             from brigade.{table} r where tenant = 't2'"
        );
        let row = sqlx::query_scalar::<_, Value>(sqlx::AssertSqlSafe(query));
        rows.insert(table.to_owned(), row.fetch_one(&fleet.sql).await.unwrap());
    }
    for (bucket, key) in [
        ("views", "t2.cart.c9.core"),
        ("views", "t2.order.o9.core"),
        ("versions", "t2.cart.c9"),
        ("versions", "canary"),
        ("active_orders", "t2.o9.core"),
    ] {
        let value = check::kv(fleet, bucket, key).await;
        rows.insert(format!("{bucket}.{key}"), value.into());
    }
    let streams = check::stored_subjects(fleet, &["COMMANDS", "KV_attempts"]).await;
    (rows, streams)
}

/// Lets a program with a credential of `t1` try everything, while `t2` goes on working.
async fn attack(user: &str) -> (Vec<String>, Vec<RawMessage>) {
    let fleet = TestFleet::start().await;
    let mut victim = Victim::open(&fleet).await;
    let before = stored(&fleet).await;
    let mut raw = RawClient::connect(&fleet.nats_url(user)).await;
    let inbox = format!("{}.tries", inbox_prefix(user));
    raw.subscribe(inbox.as_bytes()).await;
    let attempts = attempts(&inbox);
    assert!(attempts.len() >= 200, "{}", attempts.len());
    for (number, attempt) in attempts.into_iter().enumerate() {
        attempt.make(&mut raw).await;
        if number % 40 == 0 {
            victim.works().await;
        }
    }
    let refused = raw.refused().await;
    fleet.until_idle().await;
    victim.works().await;
    assert_eq!(stored(&fleet).await, before);
    // The last answer comes after those to what was asked before.
    let last = format!("{}.last", inbox_prefix(user));
    raw.subscribe(last.as_bytes()).await;
    raw.publish(b"q.t1.view.cart.none", last.as_bytes(), b"", b"").await;
    let mut received = vec![raw.next().await];
    while received.last().is_none_or(|message| message.subject != last.as_bytes()) {
        received.push(raw.next().await);
    }
    for message in &received {
        let all = [&message.subject, &message.headers, &message.payload]
            .map(|bytes| String::from_utf8_lossy(bytes).into_owned());
        assert!(!all.iter().any(|text| text.contains(SECRET)), "{all:?}");
        assert!(all[0].starts_with(&inbox_prefix(user)), "{all:?}");
    }
    victim.heard_of_itself_alone().await;
    fleet.finish().await;
    (refused, received)
}

#[tokio::test]
async fn s5_09_a_hostile_backend_reaches_nothing_of_another_tenant() {
    let (refused, received) = attack("t1-backend").await;
    assert!(refused.iter().all(|error| error.contains("Permissions Violation")), "{refused:#?}");
    // It has tried in earnest: of its own tenant it got its answers.
    assert!(received.len() > STEERING.len(), "{}", received.len());
    assert!(refused.len() > TARGETS.len() + LISTENED.len() - 4, "{refused:#?}");
}

#[tokio::test]
async fn s5_09_a_hostile_screen_reaches_nothing_of_another_tenant() {
    let (refused, received) = attack("t1-screen").await;
    assert!(refused.iter().all(|error| error.contains("Permissions Violation")), "{refused:#?}");
    // Nothing that it sent was taken for a command.
    let told = received.iter().map(|message| String::from_utf8_lossy(&message.payload));
    let is_decided = |text: &str| text.contains("command_id") || text.contains("seq");
    let decided: Vec<_> = told.filter(|text| is_decided(text)).collect();
    assert_eq!(decided, Vec::<String>::new());
}

#[tokio::test]
async fn s5_09_a_header_that_steers_the_server_concerns_its_own_message_alone() {
    let fleet = TestFleet::start().await;
    let other = Producer::new(fleet.connect("t2-backend").await, "t2");
    other.store("k9", "cart.none.join", EVE).await;
    let mut raw = RawClient::connect(&fleet.nats_url("t1-backend")).await;
    for (number, (header, refusal)) in STEERING.iter().enumerate() {
        let headers = format!("NATS/1.0\r\nCommand-Id: k{number}\r\n{header}\r\n\r\n");
        let (subject, headers) = (b"cmd.t1.cart.none.join", headers.as_bytes());
        if *refusal == DENIED {
            raw.publish(subject, b"", headers, EVE.as_bytes()).await;
            let refused = raw.refused().await;
            assert!(refused.len() == 1 && refused[0].contains(DENIED), "{header:?}: {refused:?}");
            continue;
        }
        let ack = raw.request(subject, headers, EVE.as_bytes());
        let ack = timeout(PATIENCE, ack).await.unwrap_or_else(|_| panic!("no answer: {header:?}"));
        let ack: Value = serde_json::from_slice(&ack.payload).unwrap();
        let told = ack["error"]["description"].as_str().unwrap_or_default();
        let is_expected = if refusal.is_empty() { told.is_empty() } else { told.contains(refusal) };
        assert!(is_expected, "{header:?}: {ack}");
        if refusal.is_empty() {
            let query = format!("q.t1.outcome.k{number}");
            let wait = b"NATS/1.0\r\nWait-Ms: 20000\r\n\r\n";
            let outcome = raw.request(query.as_bytes(), wait, b"").await;
            let outcome: Value = serde_json::from_slice(&outcome.payload).unwrap();
            let code = if header.starts_with("Nats-Msg-Id") { "bad_header" } else { "not_found" };
            assert_eq!(outcome["code"], code, "{header:?}: {outcome}");
        }
    }
    let commands = check::stored_subjects(&fleet, &[]).await;
    assert_eq!(commands["cmd.t2.cart.none.join"], 1, "{commands:?}");
    let all = STEERING.iter().filter(|(_, refusal)| refusal.is_empty()).count();
    assert_eq!(commands["cmd.t1.cart.none.join"], all as u64, "{commands:?}");
    fleet.finish().await;
}

/// The server knows the ids of a stream's messages over all tenants, so no command may have one.
#[tokio::test]
async fn s5_09_an_id_of_one_tenant_silences_no_other() {
    let fleet = TestFleet::start().await;
    let open = json!({"kind": "menu", "owner": "a", "currency": "EUR"}).to_string();
    let mut eve = RawClient::connect(&fleet.nats_url("t1-backend")).await;
    let mut other = RawClient::connect(&fleet.nats_url("t2-backend")).await;
    let send = async |raw: &mut RawClient, tenant: &str, id: &str, headers: &str| {
        let headers = format!("NATS/1.0\r\nCommand-Id: {id}\r\n{headers}\r\n");
        let subject = format!("cmd.{tenant}.cart.{id}.open");
        let ack = raw.request(subject.as_bytes(), headers.as_bytes(), open.as_bytes()).await;
        let ack: Value = serde_json::from_slice(&ack.payload).unwrap();
        ack["duplicate"] == json!(true)
    };
    let used = "Nats-Msg-Id: order-1\r\n";
    send(&mut eve, "t1", "order-1", used).await;
    assert!(!send(&mut other, "t2", "order-1", "").await, "what has no such id is no duplicate");
    // Whoever has such an id learns with the first command that it may not, whoever uses it.
    until("a command with an id to be stored", || async {
        let mut raw = RawClient::connect(&fleet.nats_url("t2-backend")).await;
        (!send(&mut raw, "t2", "order-2", used).await).then_some(())
    })
    .await;
    let producer = Producer::new(fleet.connect("t2-backend").await, "t2");
    for (id, status, code) in [("order-1", 201, "created"), ("order-2", 400, "bad_header")] {
        let query = format!("q.t2.outcome.{id}");
        let outcome = producer.request(&query, &[("Wait-Ms", "20000")], b"").await.unwrap().body();
        assert_eq!((&outcome["status"], &outcome["code"]), (&json!(status), &json!(code)));
    }
    fleet.finish().await;
}

/// What limits.md says that tenants see of each other.
#[tokio::test]
async fn the_shared_stream_tells_its_last_sequences() {
    let fleet = TestFleet::empty().await;
    let other = Producer::new(fleet.connect("t2-backend").await, "t2");
    for id in ["k1", "k2", "k3"] {
        other.store(id, "cart.c9.join", EVE).await;
    }
    let mut raw = RawClient::connect(&fleet.nats_url("t1-backend")).await;
    for (expected, told) in [
        ("Nats-Expected-Last-Sequence: 9", "wrong last sequence: 3"),
        (
            "Nats-Expected-Last-Subject-Sequence: 9\r\n\
             Nats-Expected-Last-Subject-Sequence-Subject: cmd.t2.cart.*.join",
            "wrong last sequence: 3",
        ),
        (
            "Nats-Expected-Last-Subject-Sequence: 9\r\n\
             Nats-Expected-Last-Subject-Sequence-Subject: cmd.t2.cart.c8.join",
            "wrong last sequence: 0",
        ),
    ] {
        let headers = format!("NATS/1.0\r\nCommand-Id: k\r\n{expected}\r\n\r\n");
        let ack = raw.request(b"cmd.t1.cart.none.join", headers.as_bytes(), b"{}").await;
        let ack: Value = serde_json::from_slice(&ack.payload).unwrap();
        assert_eq!(ack["error"]["description"], told);
    }
}
