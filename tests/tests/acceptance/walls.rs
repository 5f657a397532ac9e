//! Isolation of restaurants: the credentials of one reach nothing of another, and nothing of the
//! fleet but its doors.

use std::path::Path;

use async_nats::{Client, Event, HeaderMap, RequestErrorKind, Subscriber};
use brigade::infra::connect_options;
use brigade_contracts::header::{COMMAND_ID, REQUEST_INFO};
use brigade_servers::NatsServer;
use brigade_tests::{
    Producer, RawClient, SUPERUSER, TENANT_SUPERUSER, TestFleet, binaries, check, until,
};
use futures::StreamExt;
use serde_json::json;
use tokio::sync::mpsc;

/// Reply subjects that a sender may name: all that are stored or subscribed to, and invalid ones.
const REPLIES: &[&str] = &[
    "$KV.views.t2.cart.c9.core",
    "$KV.versions.t2.cart.c9",
    "$KV.attempts.edge.x",
    "evt.t2.order.o9.paid",
    "due.lock.t2.c9.1",
    "dlq.edge.c9",
    "cmd.t2.cart.c9.abandon",
    "req.t2.cart.c9.abandon",
    "req.t1.cart.c9.expire_lock",
    "cmd.t1.cart.c9.expire_lock",
    "outcome.t2.k9",
    "live.views.t2.cart.c9.core",
    "$JS.API.STREAM.PURGE.EVENTS",
    "$JS.API.STREAM.DELETE.EVENTS",
    "$SRV.PING",
    "outbox.wake",
    "outbox.relays",
    "hooks.t2.password_reset",
    "_INBOX.edge.x",
    "_INBOX.t2-producer.x",
    "_INBOX.",
    "_INBOX.a..b",
];

/// Returns everything that a connection has received by now, without the marker.
async fn heard(client: &Client, everything: &mut Subscriber) -> Vec<(String, Vec<u8>)> {
    client.publish("walls.marker", "".into()).await.unwrap();
    let before = everything.take_while(|message| {
        let is_marker = message.subject.as_str() == "walls.marker";
        std::future::ready(!is_marker)
    });
    before.map(|message| (message.subject.to_string(), message.payload.to_vec())).collect().await
}

#[tokio::test]
async fn s5_02_a_reply_subject_harms_its_sender_only() {
    let fleet = TestFleet::start().await;
    let sender = fleet.producer().await;
    let other = Producer::new(fleet.connect("t2-producer").await, "t2");
    other.team_cart("c1", "ada", &[]).await;
    fleet.until_idle().await;
    let hearing = fleet.connect("t2-backend").await;
    let mut pushed = hearing.subscribe("live.*.t2.>").await.unwrap();
    let mut outcomes = hearing.subscribe("outcome.t2.>").await.unwrap();
    hearing.flush().await.unwrap();
    let superuser = fleet.connect(SUPERUSER).await;
    let mut everything = superuser.subscribe(">").await.unwrap();
    let before = check::stored_subjects(&fleet, &["COMMANDS"]).await;

    let send = async |subject: &str, reply: &str, id: &str| {
        let mut headers = HeaderMap::new();
        headers.insert(COMMAND_ID, id);
        let (subject, reply) = (subject.to_owned(), reply.to_owned());
        let payload = r#"{"user":"eve"}"#.into();
        let sent = sender.client.publish_with_reply_and_headers(subject, reply, headers, payload);
        sent.await.unwrap();
    };
    for (at, reply) in REPLIES.iter().enumerate() {
        send("cmd.t1.cart.c9.join", reply, &format!("cmd{at}")).await;
        send("req.t1.cart.c9.join", reply, &format!("req{at}")).await;
        send("cmd.t1.user.u9.login", reply, &format!("login{at}")).await;
        send("q.t1.view.cart.c9", reply, "q").await;
        send("q.t1.user.u9.state", reply, "q").await;
    }
    for at in 0..REPLIES.len() {
        for door in ["cmd", "req"] {
            let query = format!("q.t1.outcome.{door}{at}");
            let outcome = sender.request(&query, &[("Wait-Ms", "20000")], b"").await.unwrap();
            assert_eq!(outcome.body()["status"], 404, "{query}");
        }
    }
    for endpoint in ["view", "user_state"] {
        until("the queries to be answered", || async {
            let answered = fleet.edge_metrics().queries.with_label_values(&[endpoint, "404"]).get();
            (answered >= REPLIES.len() as u64).then_some(())
        })
        .await;
    }
    assert_eq!(sender.view("cart.c9", None).await.status, 404);

    assert_eq!(check::stored_subjects(&fleet, &["COMMANDS"]).await, before);
    let commands = check::stored_subjects(&fleet, &[]).await;
    let commands: Vec<_> =
        commands.into_keys().filter(|subject| subject.starts_with("cmd.")).collect();
    assert_eq!(commands, ["cmd.t1.cart.c9.join"]);
    // All that is answered to the sender is JSON; what the workers say on these subjects is not.
    let forged = |(subject, payload): &(String, Vec<u8>)| {
        REPLIES.contains(&subject.as_str()) && payload.starts_with(b"{")
    };
    let mut all = heard(&superuser, &mut everything).await;
    assert!(all.iter().any(|(subject, _)| subject == "cmd.t1.cart.c9.join"), "it hears");
    all.retain(forged);
    assert_eq!(all, []);
    // Its own programs alone hear what the sender had sent to them.
    let mut own = sender.client.subscribe("outcome.t1.k9").await.unwrap();
    send("cmd.t1.cart.c9.join", "outcome.t1.k9", "own").await;
    let ack = own.next().await.unwrap();
    assert!(ack.payload.starts_with(br#"{"stream":"COMMANDS""#));

    // The other one is told of its own doings first.
    let outcome = other.publish("k1", "cart.c1.join", json!({"user": "bob"})).await;
    assert_eq!(outcome["status"], 200);
    assert_eq!(outcomes.next().await.unwrap().subject.as_str(), "outcome.t2.k1");
    assert!(pushed.next().await.unwrap().subject.contains(".t2.cart.c1"));
    fleet.finish().await;
}

#[tokio::test]
async fn s5_02_a_sender_cannot_name_another_tenant_as_its_own() {
    let fleet = TestFleet::start().await;
    let open = json!({"kind": "team", "owner": "ada", "currency": "EUR"}).to_string();
    let forged = (REQUEST_INFO, r#"{"acc":"T-t2"}"#);
    let lower = ("nats-request-info", r#"{"acc":"T-t2"}"#);
    // The server puts the truth in its place.
    let producer = fleet.producer().await;
    for (at, header) in [forged, lower].into_iter().enumerate() {
        let id = format!("k{at}");
        let headers = [("Command-Id", id.as_str()), header, header];
        let subject = format!("req.t1.cart.c{at}.open");
        let opened = producer.request(&subject, &headers, open.as_bytes()).await.unwrap();
        assert_eq!(opened.status, 201, "{}", opened.body());
        let view = format!("q.t1.view.cart.c{at}");
        assert_eq!(producer.request(&view, &[header], b"").await.unwrap().status, 200);
        let payload = json!({"user": "bob"}).to_string().into();
        let mut headers = HeaderMap::new();
        headers.append(COMMAND_ID, format!("d{at}"));
        headers.append(header.0, header.1);
        let js = async_nats::jetstream::new(producer.client.clone());
        let sent = js.publish_with_headers(format!("cmd.t1.cart.c{at}.join"), headers, payload);
        sent.await.unwrap().await.unwrap();
        let query = format!("q.t1.outcome.d{at}");
        let outcome = producer.request(&query, &[("Wait-Ms", "20000")], b"").await.unwrap();
        assert_eq!(outcome.body()["status"], 200);
    }
    // What the server adds takes no room of what a sender may write.
    let most = "x".repeat(4096 - "Command-Id".len() - "k9".len() - "X-Large".len());
    let headers = [("Command-Id", "k9"), ("X-Large", most.as_str())];
    let opened = producer.request("req.t1.cart.c9.open", &headers, open.as_bytes()).await.unwrap();
    assert_eq!(opened.status, 201, "{}", opened.body());

    // As it would come if a tenant's subjects were imported into the account of another.
    let superuser = Producer::new(fleet.connect(SUPERUSER).await, "t1");
    let headers = [("Command-Id", "k8"), forged];
    let refused =
        superuser.request("req.t1.cart.c8.open", &headers, open.as_bytes()).await.unwrap();
    assert_eq!((refused.status, refused.code().as_str()), (403, "wrong_tenant"));
    for query in ["q.t1.view.cart.c1", "q.t1.outcome.k1", "q.t1.active_orders", "q.t1.lock.ada"] {
        let refused = superuser.request(query, &[forged], b"").await.unwrap();
        assert_eq!((refused.status, refused.code().as_str()), (403, "wrong_tenant"), "{query}");
    }
    assert_eq!(superuser.view("cart.c8", None).await.status, 404);
    fleet.finish().await;
}

/// Subjects on which no credential of `t1` may publish.
const FOREIGN: &[&str] = &[
    "cmd.t2.cart.c1.join",
    "req.t2.cart.c1.join",
    "cmd.t2.user.ada.login",
    "q.t2.view.cart.c1",
    "q.t2.outcome.k1",
    "q.t2.active_orders",
    "q.t2.lock.ada",
    "q.t2.user.ada.state",
    "outcome.t2.k1",
    "live.views.t2.cart.c1.core",
    "evt.t2.cart.c1.joined",
    "timer.lock.t2.c1.1",
    "due.lock.t2.c1.1",
    "dlq.edge.x",
    "outbox.wake",
    "hooks.t1.password_reset",
    "hooks.t2.password_reset",
    "$KV.views.t2.cart.c1.core",
    "$KV.views.t1.cart.c1.core",
    "$JS.ACK.COMMANDS.command-handler.1.1.1.1.1",
    "$JS.FC.KV_views.x",
    "$SRV.PING",
    "_INBOX.t2-producer.x",
    "_INBOX.edge.x",
    "_R_.x.y",
];

/// JetStream's interface, which each account has for itself.
const JETSTREAM: &[&str] = &[
    "$JS.API.INFO",
    "$JS.API.STREAM.NAMES",
    "$JS.API.STREAM.LIST",
    "$JS.API.STREAM.INFO.EVENTS",
    "$JS.API.STREAM.MSG.GET.KV_views",
    "$JS.API.STREAM.PURGE.COMMANDS",
    "$JS.API.STREAM.DELETE.EVENTS",
    "$JS.API.CONSUMER.CREATE.EVENTS",
    "$JS.API.CONSUMER.MSG.NEXT.COMMANDS.command-handler",
];

/// The errors that the server sends to a user.
struct Told {
    client: Client,
    errors: mpsc::UnboundedReceiver<String>,
}

impl Told {
    async fn connect(fleet: &TestFleet, user: &str) -> Self {
        let (options, address) = connect_options(&fleet.nats_url(user)).unwrap();
        let (sender, errors) = mpsc::unbounded_channel();
        let options = options.event_callback(move |event| {
            if let Event::ServerError(error) = event {
                sender.send(error.to_string()).unwrap();
            }
            std::future::ready(())
        });
        Self { client: options.connect(address).await.unwrap(), errors }
    }

    /// Returns the next error that contains this text.
    async fn error(&mut self, says: &str) {
        while !self.errors.recv().await.unwrap().to_lowercase().contains(says) {}
    }

    /// Returns the refusals so far, in the server's words and in order.
    async fn refused(&mut self) -> Vec<String> {
        self.client.publish("nobody.may.publish.this", "".into()).await.unwrap();
        let mut refused = Vec::new();
        loop {
            let error = self.errors.recv().await.unwrap();
            if error.contains("nobody.may.publish.this") {
                return refused;
            }
            refused.push(error);
        }
    }
}

#[tokio::test]
async fn s5_09_no_credential_of_a_tenant_may_do_anything_in_anothers_name() {
    let fleet = TestFleet::empty().await;
    let heard = [
        ">",
        "cmd.t1.>",
        "cmd.t2.>",
        "req.>",
        "q.>",
        "outcome.>",
        "outcome.t2.>",
        "live.>",
        "live.*.t2.>",
        "evt.>",
        "dlq.>",
        "$KV.>",
        "$JS.>",
        "$SYS.>",
        "$SRV.>",
        "_INBOX.>",
        "_INBOX.t2-producer.>",
        "_INBOX.edge.>",
        "_R_.>",
        "hooks.>",
        "hooks.t2.>",
    ];
    for role in ["backend", "till", "gateway", "screen", "producer", "watcher"] {
        let user = format!("t1-{role}");
        let user = user.as_str();
        let mut told = Told::connect(&fleet, user).await;
        for subject in FOREIGN.iter().chain(JETSTREAM) {
            told.client.publish(*subject, "{}".into()).await.unwrap();
            let refused = told.refused().await;
            let is_refused = refused.len() == 1 && refused[0].contains(&format!("{subject:?}"));
            assert!(is_refused, "{user} on {subject}: {refused:?}");
        }
        for subject in heard {
            let _nothing = told.client.subscribe(subject).await.unwrap();
            let refused = told.refused().await;
            let is_refused = refused.len() == 1 && refused[0].contains(&format!("{subject:?}"));
            assert!(is_refused, "{user} on {subject}: {refused:?}");
        }
    }
}

#[tokio::test]
async fn s5_09_the_account_is_a_wall_even_without_permissions() {
    let fleet = TestFleet::start().await;
    let spy = fleet.connect(TENANT_SUPERUSER).await;
    let mut everything = spy.subscribe(">").await.unwrap();
    // It would be given requests in the workers' places.
    let mut requests = spy.queue_subscribe("req.>", "command-handler".to_owned()).await.unwrap();
    let mut queries = spy.queue_subscribe("q.>", "edge".to_owned()).await.unwrap();
    let other = Producer::new(fleet.connect("t2-producer").await, "t2");
    other.team_cart("c1", "ada", &["bob", "cid", "dan"]).await;
    let outcome = other.publish("k1", "cart.c1.join", json!({"user": "eve"})).await;
    assert_eq!(outcome["status"], 200);
    for _ in 0..4 {
        assert_eq!(other.view("cart.c1", None).await.status, 200);
    }
    fleet.until_idle().await;
    assert_eq!(heard(&spy, &mut everything).await, []);

    for subscriber in [&mut everything, &mut requests, &mut queries] {
        subscriber.unsubscribe().await.unwrap();
    }
    let before = check::stored_subjects(&fleet, &[]).await;
    let cart = check::kv(&fleet, "views", "t2.cart.c1.core").await;
    for subject in FOREIGN {
        let answer = spy.request(*subject, "{}".into()).await;
        let nobody = answer.map_err(|error| error.kind());
        assert_eq!(nobody.err(), Some(RequestErrorKind::NoResponders), "{subject}");
    }
    for subject in JETSTREAM {
        match spy.request(*subject, "".into()).await {
            Ok(answer) => {
                let answer = String::from_utf8_lossy(&answer.payload).into_owned();
                assert!(answer.contains("JetStream not enabled for account"), "{answer}");
            }
            Err(error) => assert_eq!(error.kind(), RequestErrorKind::NoResponders, "{subject}"),
        }
    }
    assert_eq!(check::stored_subjects(&fleet, &[]).await, before);
    assert_eq!(check::kv(&fleet, "views", "t2.cart.c1.core").await, cart);
    assert_eq!(other.view("cart.c1", None).await.status, 200);
    fleet.finish().await;
}

#[tokio::test]
async fn a_tenants_account_has_limits() {
    let fleet = TestFleet::empty().await;
    let mut told = Told::connect(&fleet, "t1-watcher").await;
    let mut subscribed = Vec::new();
    for _ in 0..=2_048 {
        subscribed.push(told.client.subscribe("live.*.t1.>").await.unwrap());
    }
    told.error("maximum subscriptions exceeded").await;
    let mut connected = Vec::new();
    while connected.len() < 127 {
        connected.push(RawClient::connect(&fleet.nats_url("t1-watcher")).await);
    }
    let refused = connect_options(&fleet.nats_url("t1-producer")).unwrap();
    let (options, address) = refused;
    let refused = options.connect(address).await.expect_err("no room for one more");
    assert!(refused.to_string().contains("maximum account active connections"), "{refused}");
}

#[tokio::test]
async fn nobody_is_there_to_answer_says_the_server_across_the_wall() {
    let fleet = TestFleet::empty().await;
    let producer = fleet.connect("t1-producer").await;
    for subject in ["req.t1.cart.c1.open", "q.t1.view.cart.c1", "cmd.t1.user.ada.login"] {
        let nobody = producer.request(subject, "{}".into()).await.unwrap_err();
        assert_eq!(nobody.kind(), RequestErrorKind::NoResponders, "{subject}");
    }
}

/// A server takes the committed files as its configuration, with the isolation in it.
#[tokio::test]
async fn the_committed_accounts_are_a_configuration() {
    let nats = Path::new(env!("CARGO_MANIFEST_DIR")).join("../nats");
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("permissions")).unwrap();
    for file in std::fs::read_dir(nats.join("permissions")).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), dir.path().join("permissions").join(file.file_name())).unwrap();
    }
    let accounts = std::fs::read_to_string(nats.join("accounts.conf")).unwrap();
    // The passwords are defined in front of the accounts, as operations.md says.
    let variables = accounts.lines().filter(|line| !line.starts_with('#'));
    let variables =
        variables.filter_map(|line| line.split_once("$NATS_PASSWORD_")?.1.split_once(','));
    let definitions: String =
        variables.map(|(name, _)| format!("NATS_PASSWORD_{name}: \"secret-{name}\"\n")).collect();
    let accounts = definitions + &accounts;
    let server = &binaries().nats_server;
    let server = NatsServer::start(server, dir.path(), 0, &accounts).await.unwrap();
    let connect = async |user: &str| {
        let password = format!("secret-{}", user.to_uppercase().replace('-', "_"));
        let url = format!("nats://{user}:{password}@127.0.0.1:{}", server.port());
        let (options, address) = connect_options(&url).unwrap();
        options.connect(address).await.unwrap()
    };
    let handler = connect("command-handler").await;
    let mut requests = handler.subscribe("req.>").await.unwrap();
    handler.flush().await.unwrap();
    let producer = connect("TENANT-producer").await;
    let answer = async {
        let request = requests.next().await.unwrap();
        assert!(request.headers.unwrap().get(REQUEST_INFO).unwrap().as_str().contains("T-TENANT"));
        handler.publish(request.reply.unwrap(), "decided".into()).await.unwrap();
    };
    let asked = producer.request("req.TENANT.cart.c1.open", "{}".into());
    let (asked, ()) = tokio::join!(asked, answer);
    assert_eq!(asked.unwrap().payload, "decided");
}
