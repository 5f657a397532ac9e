//! Tenants are registered, suspended, resumed and removed by an operator.

use std::{
    fs,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_nats::{Client, Event, HeaderMap};
use brigade::{
    infra::connect_options,
    operations::tenants::{self, accounts::AccountsFolder},
};
use brigade_contracts::{Token, permissions};
use brigade_tests::{
    HttpClient, Producer, Reply, TENANTS, TestFleet, binaries,
    http_client::credentials,
    process::printed,
    producer::{item, placed},
    tls::{Authority, BEGIN_TLS},
    until,
};
use futures::StreamExt;
use serde_json::{Value, json};
use tokio::{process::Command, task::JoinHandle};

use crate::dead_letters::{desk, letters};

fn order() -> Value {
    placed(&[("Soup", 500, 1)])
}

/// Starts a fleet whose HTTP asks for no token.
async fn open_fleet(card: Duration) -> TestFleet {
    let mut fleet = TestFleet::empty().await;
    fleet.settings.http.open = true;
    fleet.settings.lock_policy.card = card;
    fleet.run_all().await;
    fleet
}

async fn query(producer: &Producer, what: &str) -> Reply {
    let subject = format!("q.{}.{what}", producer.tenant);
    producer.request(&subject, &[], b"").await.expect("an answer")
}

/// Everything of a tenant is refused so, on both doors and over HTTP, without a trace in SQL.
async fn refused_everywhere(producer: &Producer, http: &HttpClient, expected: (u16, &str)) {
    let code = |reply: &Reply| (reply.status, reply.code());
    let expected = (expected.0, expected.1.to_owned());
    assert_eq!(code(&producer.send("order.no1.place", order()).await), expected);
    let outcome = producer.publish("kept", "order.kept.place", order()).await;
    assert_eq!((&outcome["status"], &outcome["code"]), (&json!(expected.0), &json!(expected.1)));
    let token = json!({"access_token": "ada.x"}).to_string();
    for what in [
        "view.order.o1",
        "active_orders",
        "outcome.k1",
        "lock.ada",
        "lock_history.ada",
        "user.ada.state",
    ] {
        let reply = query(producer, what).await;
        assert_eq!(code(&reply), expected, "{what}");
    }
    let subject = format!("q.{}.user.ada.validate", producer.tenant);
    let validated = producer.request(&subject, &[], token.as_bytes()).await.expect("an answer");
    assert_eq!(code(&validated), expected);
    let stranger = http.with_token("ada.x");
    for response in [
        http.post("order/no2/place", &order()).await,
        http.post("user/ada/register", &credentials("ada")).await,
        http.post("user/ada/login", &credentials("ada")).await,
        http.get("order/o1", &[]).await,
        http.get("user/ada", &[]).await,
        http.get("active-orders", &[]).await,
        http.get("outcomes/k1", &[]).await,
        stranger.get("order/o1", &[]).await,
        http.stream("active-orders/stream", None).await.err().expect("no stream"),
        http.stream("order/o1/stream", None).await.err().expect("no stream"),
    ] {
        assert_eq!((response.status, response.code()), expected);
    }
}

/// Waits until edge refuses a tenant with this code as well.
async fn until_edge_says(producer: &Producer, code: &str) {
    until("edge to know", async || {
        (query(producer, "active_orders").await.code() == code).then_some(())
    })
    .await;
}

async fn count(fleet: &TestFleet, statement: &str) -> i64 {
    sqlx::query_scalar(sqlx::AssertSqlSafe(statement.to_owned()))
        .fetch_one(&fleet.sql)
        .await
        .unwrap()
}

#[tokio::test]
async fn a_tenant_that_is_not_registered_does_not_exist() {
    let fleet = open_fleet(Duration::from_secs(600)).await;
    sqlx::raw_sql("delete from brigade.tenants where tenant = 't2'")
        .execute(&fleet.sql)
        .await
        .unwrap();
    let t2 = Producer::new(fleet.connect("t2-producer").await, "t2");
    let http = fleet.http_client().await.of("t2");
    refused_everywhere(&t2, &http, (404, "unknown_tenant")).await;
    let letter = letters(&fleet, 1).await.remove(0);
    assert!(letter.reason.starts_with("unknown_tenant"), "{}", letter.reason);
    // Nothing is left of it, and nobody registered it by sending something.
    for table in ["orders", "users", "command_inbox", "events", "tenants"] {
        let rows = format!("select count(*) from brigade.{table} where tenant = 't2'");
        assert_eq!(count(&fleet, &rows).await, 0, "{table}");
    }
    printed(&fleet, "tenants add t2").await;
    assert_eq!(t2.send("order.o1.place", order()).await.status, 201);
    // Under its Command-Id, which nothing was stored for.
    desk(&fleet).await.replay(&letter, "olga").await.unwrap();
    until("the command that was kept", async || {
        let view = query(&t2, "view.order.kept").await;
        (view.status == 200).then_some(())
    })
    .await;
    fleet.finish().await;
}

#[tokio::test]
async fn a_suspended_tenant_is_refused_everywhere_and_the_fleets_work_for_it_goes_on() {
    let fleet = open_fleet(Duration::from_secs(2)).await;
    let (t1, http) = (fleet.producer().await, fleet.http_client().await);
    let t2 = Producer::new(fleet.connect("t2-producer").await, "t2");
    assert_eq!(t1.send_as("k1", "order.o1.place", order()).await.status, 201);
    t1.cart_of("c1", "menu", "ada", &[("i1", 1000, 1)]).await;
    let stream =
        async |http: HttpClient| http.stream("active-orders/stream", None).await.expect("a stream");
    let (mut own, mut other) = (stream(http.clone()).await, stream(http.of("t2")).await);
    t1.lock("c1").await;
    printed(&fleet, "tenants suspend t1").await;
    // At once, where it is decided.
    assert_eq!(t1.send("order.o2.place", order()).await.code(), "tenant_suspended");
    until_edge_says(&t1, "tenant_suspended").await;
    refused_everywhere(&t1, &http, (403, "tenant_suspended")).await;
    // What was decided before keeps its outcome.
    assert_eq!(t1.send_as("k1", "order.o1.place", order()).await.status, 201);
    while own.next().await.is_some() {}
    // Its lock ends all the same, which a worker asks for.
    until("the lock to expire", async || {
        let released = "select count(*) from brigade.cart_lock_history where action = 'expired'";
        (count(&fleet, released).await == 1).then_some(())
    })
    .await;
    fleet.until_relayed().await;
    // Nobody else notices.
    assert_eq!(t2.send("order.o9.place", order()).await.status, 201);
    while !other.next().await.expect("it goes on").data.to_string().contains("o9") {}
    // What would come back at once is not sent.
    let letter = letters(&fleet, 1).await.remove(0);
    let refused = desk(&fleet).await.replay(&letter, "olga").await.unwrap_err().to_string();
    assert!(refused.contains("brigade tenants resume t1"), "{refused}");
    printed(&fleet, "tenants resume t1").await;
    assert_eq!(t1.send("order.o2.place", order()).await.status, 201);
    t1.done("cart.c1.add_item", item("i2", 1, 1)).await;
    until("edge to know", async || (query(&t1, "view.order.o2").await.status == 200).then_some(()))
        .await;
    // The durable command is decided when the operator sends it again.
    printed(&fleet, "dlq replay --matching --tenant t1 --reason tenant_suspended").await;
    until("the command that was kept", async || {
        (query(&t1, "view.order.kept").await.status == 200).then_some(())
    })
    .await;
    letters(&fleet, 0).await;
    fleet.finish().await;
}

/// Accounts in files, as `brigade tenants` writes them, in the place of those of other tests.
async fn with_accounts(fleet: &mut TestFleet) -> (PathBuf, PathBuf) {
    let server = fleet.nats_dir().join("nats-0");
    let tenants = TENANTS.map(|tenant| Token::new(tenant).unwrap());
    let users = permissions::all_users(&tenants);
    let passwords: Vec<_> = users.iter().map(|user| format!("{}-secret", user.name)).collect();
    let users: Vec<_> = users.iter().zip(passwords.iter().map(String::as_str)).collect();
    AccountsFolder::new(&server.join("accounts")).put(&users).unwrap();
    let file = server.join("nats-server.conf");
    let before = fs::read_to_string(&file).unwrap();
    let (rest, _) = before.split_once("accounts: {").unwrap();
    // With BRIGADE_TEST_TLS=1.
    let (_, tls) = before.split_once(BEGIN_TLS).unwrap_or_default();
    fs::write(&file, format!("{rest}include \"accounts/accounts.conf\"\n{tls}")).unwrap();
    fleet.nats.restart().await.unwrap();
    (server.join("accounts"), server.join("nats-server.pid"))
}

/// Connects with a credential that was printed, and counts how often it is disconnected.
async fn connect(fleet: &TestFleet, user: &str, password: &str) -> (Client, Arc<AtomicUsize>) {
    let lost = Arc::new(AtomicUsize::new(0));
    let url = format!("nats://{user}:{password}@127.0.0.1:{}", fleet.nats.port());
    let (options, address) = connect_options(&url).unwrap();
    let counted = lost.clone();
    let options = options.event_callback(move |event| {
        let counted = counted.clone();
        async move {
            if matches!(event, Event::Disconnected | Event::Closed) {
                counted.fetch_add(1, Ordering::SeqCst);
            }
        }
    });
    (options.connect(address).await.unwrap(), lost)
}

/// Commands by both doors, queries and pushes of `t1`, without a pause, until it is stopped. Each
/// has to succeed. nats-server may lose the answer of what is under way while it reads its
/// configuration, so each is repeated until it is answered, as every program has to do.
fn load(t1: Producer, stop: Arc<AtomicBool>) -> JoinHandle<usize> {
    tokio::spawn(async move {
        let mut pushes = t1.client.subscribe("live.views.t1.order.>").await.unwrap();
        let mut rounds = 0;
        while !stop.load(Ordering::SeqCst) {
            let (first, second) = (format!("a{rounds}"), format!("b{rounds}"));
            let placed = format!("order.{first}.place");
            let sent = t1.send_until_decided(&first, &placed, order()).await;
            assert_eq!(sent.status, 201, "{:?}", sent.body());
            stored(&t1, &second, &format!("order.{second}.place"), order()).await;
            let wait = [("Wait-Ms", "1000")];
            let decided = async || {
                let outcome = answered(&t1, &format!("q.t1.outcome.{second}"), &wait, "").await;
                (outcome.status == 200).then(|| outcome.body()["status"].clone())
            };
            assert_eq!(until("an outcome", decided).await, 201);
            let view = answered(&t1, &format!("q.t1.view.order.{second}"), &[], "").await;
            assert_eq!(view.status, 200);
            pushes.next().await.expect("a push");
            rounds += 1;
        }
        rounds
    })
}

/// Places an order at the request door, until there is an answer.
async fn order_placed(producer: &Producer, id: &str) -> Reply {
    producer.send_until_decided(id, &format!("order.{id}.place"), order()).await
}

/// Publishes on the durable door until there is a PubAck.
async fn stored(producer: &Producer, id: &str, what: &str, payload: Value) {
    let js = async_nats::jetstream::new(producer.client.clone());
    let subject = format!("cmd.{}.{what}", producer.tenant);
    until("a PubAck", async || {
        let mut headers = HeaderMap::new();
        headers.insert("Command-Id", id);
        let payload = payload.to_string().into();
        js.publish_with_headers(subject.clone(), headers, payload).await.ok()?.await.ok()
    })
    .await;
}

/// Asks until there is an answer.
async fn answered(
    producer: &Producer,
    subject: &str,
    headers: &[(&str, &str)],
    payload: &str,
) -> Reply {
    let once = Duration::from_secs(2);
    until(&format!("an answer on {subject}"), async || {
        producer.request_within(once, subject, headers, payload.as_bytes()).await
    })
    .await
}

async fn run(fleet: &TestFleet, arguments: &str, files: &(PathBuf, PathBuf)) -> Value {
    let (accounts, pid) = (files.0.display(), files.1.display());
    let arguments = format!("tenants {arguments} --accounts {accounts} --reload-pid {pid}");
    let printed = printed(fleet, &arguments).await;
    // Beside what the test program itself prints.
    let line = printed.lines().find(|line| line.starts_with('{')).unwrap_or("null");
    serde_json::from_str(line).unwrap()
}

/// Returns the user and the password of the producer that was printed.
fn of_producer(printed: &Value) -> (String, String) {
    let users = printed["users"].as_array().expect("users");
    let user = users.iter().find(|user| user["user"].as_str().unwrap().contains("producer"));
    let text = |name: &str| user.expect("a producer")[name].as_str().unwrap().to_owned();
    (text("user"), text("password"))
}

#[tokio::test]
async fn s5_11_a_tenant_comes_and_goes_under_load_without_an_error_elsewhere() {
    let mut fleet = TestFleet::empty().await;
    let files = with_accounts(&mut fleet).await;
    fleet.run_all().await;
    let (t1, lost) = connect(&fleet, "t1-producer", "t1-producer-secret").await;
    let stop = Arc::new(AtomicBool::new(false));
    // A clone stays here: the last one would be a disconnect of its own.
    let load = load(Producer::new(t1.clone(), "t1"), stop.clone());

    let (user, password) = of_producer(&run(&fleet, "add rosa --json", &files).await);
    let (client, first_lost) = connect(&fleet, &user, &password).await;
    let first = Producer::new(client, "rosa");
    let mut pushes = first.client.subscribe("live.views.rosa.>").await.unwrap();
    assert_eq!(order_placed(&first, "o1").await.status, 201);
    stored(&first, "o2", "order.o2.place", order()).await;
    until("the order", async || {
        let view = answered(&first, "q.rosa.view.order.o2", &[], "").await;
        (view.status == 200).then_some(())
    })
    .await;
    pushes.next().await.expect("a push");

    let (next_user, next_password) = of_producer(&run(&fleet, "rotate rosa --json", &files).await);
    assert_eq!(next_user, format!("{user}-2"));
    let (client, next_lost) = connect(&fleet, &next_user, &next_password).await;
    let next = Producer::new(client, "rosa");
    assert_eq!(order_placed(&next, "o3").await.status, 201);
    assert_eq!(order_placed(&first, "o4").await.status, 201);
    assert_eq!(first_lost.load(Ordering::SeqCst), 0);
    run(&fleet, "rotate rosa --finish", &files).await;
    until("the first credential to end", async || {
        (first_lost.load(Ordering::SeqCst) > 0).then_some(())
    })
    .await;
    assert_eq!(order_placed(&next, "o5").await.status, 201);

    printed(&fleet, "tenants suspend rosa").await;
    assert_eq!(order_placed(&next, "o6").await.code(), "tenant_suspended");
    printed(&fleet, "tenants resume rosa").await;
    assert_eq!(order_placed(&next, "o6").await.status, 201);
    assert_eq!(next_lost.load(Ordering::SeqCst), 0);

    let name = Token::new("rosa").unwrap();
    let active = tenants::remove(&fleet.sql, &name, "olga").await.unwrap_err().to_string();
    assert!(active.contains("only what is suspended"), "{active}");
    printed(&fleet, "tenants suspend rosa").await;
    run(&fleet, "rm rosa --yes", &files).await;
    until("its connection to end", async || (next_lost.load(Ordering::SeqCst) > 0).then_some(()))
        .await;
    let again = tenants::add(&fleet.sql, &name, false, "olga").await.unwrap_err().to_string();
    assert!(again.contains("--restore"), "{again}");
    assert_eq!(count(&fleet, "select count(*) from brigade.orders where tenant = 'rosa'").await, 6);
    let expected =
        ["added", "rotated", "rotation_finished", "suspended", "resumed", "suspended", "removed"];
    assert_eq!(logged(&fleet, "rosa").await, expected);

    stop.store(true, Ordering::SeqCst);
    let rounds = load.await.expect("no error");
    println!("{rounds} rounds of another tenant meanwhile");
    assert!(rounds > 0);
    assert_eq!(lost.load(Ordering::SeqCst), 0, "disconnects of another tenant");
    fleet.finish().await;
}

/// Returns what the security log says that operators have done with a tenant, in order.
async fn logged(fleet: &TestFleet, tenant: &str) -> Vec<String> {
    sqlx::query_scalar(
        "select detail ->> 'action' from brigade.security_log
         where tenant = $1 and kind = 'tenant_changed' and actor is not null and via = 'fleet'
         order by seq",
    )
    .bind(tenant)
    .fetch_all(&fleet.sql)
    .await
    .unwrap()
}

/// A server takes the committed configuration, with a folder of accounts beside it.
#[tokio::test]
async fn the_committed_configuration_is_one() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().display();
    let text = include_str!("../../../nats/server.conf");
    let text = text.replace("/etc/nats/tls/", &format!("{path}/"));
    let text = text.replace("/run/nats/", &format!("{path}/"));
    let text = text.replace("/var/lib/nats", &format!("{path}/js"));
    fs::write(dir.path().join("server.conf"), text).unwrap();
    Authority::new().certify(dir.path(), false);
    let accounts = AccountsFolder::new(&dir.path().join("accounts"));
    accounts.sync().unwrap();
    accounts.add(&Token::new("demo").unwrap()).unwrap();
    let mut check = Command::new(&binaries().nats_server);
    let checked = check.arg("-t").arg("-c").arg(dir.path().join("server.conf")).output().await;
    let checked = checked.unwrap();
    assert!(checked.status.success(), "{checked:?}");
}
