//! S5-06: connections that are dead and do not say so, and duties of those who cannot do them.

use brigade::fleet::FleetMetrics;
use std::time::{Duration, Instant};

use brigade::fleet::{Instance, Servers};
use brigade_contracts::WorkerName;
use brigade_domain::LockPolicy;
use brigade_tests::{
    Producer, Town,
    deadlines::until_no_lock_is_held,
    process::signal,
    producer::{item, placed},
    proxy::TcpProxy,
    town::ready,
    until,
};
use serde_json::json;
use time::OffsetDateTime;

/// The same servers, by ways of their own.
fn by(town: &Town, worker: WorkerName, nats: u16, postgres: u16) -> Servers {
    let servers = town.servers(worker);
    let url = |url: &str, from: u16, to: u16| url.replace(&format!(":{from}"), &format!(":{to}"));
    Servers {
        nats_url: url(&servers.nats_url, town.nats.port(), nats),
        postgres_url: url(&servers.postgres_url, postgres_port(town), postgres),
        ..servers
    }
}

fn postgres_port(town: &Town) -> u16 {
    town.sql.connect_options().get_port()
}

fn start(town: &Town, worker: WorkerName, servers: Servers) -> Instance {
    Instance::start(worker, servers, town.metrics.clone(), town.fail.clone())
}

/// A worker and its ways to both servers.
struct Wired {
    worker: WorkerName,
    nats: TcpProxy,
    postgres: TcpProxy,
}

/// A fleet each of whose workers has wires of its own.
async fn wired() -> (Town, Vec<Wired>) {
    let mut town = Town::empty().await;
    town.has_ghosts = true;
    let soon = Duration::from_secs(1);
    town.settings.lock_policy =
        LockPolicy { card: soon, wallet: soon, qr: soon, cash: soon, ..LockPolicy::default() };
    let mut wires = Vec::new();
    for worker in WorkerName::ALL {
        let (nats, postgres) =
            (TcpProxy::to(town.nats.port()).await, TcpProxy::to(postgres_port(&town)).await);
        let instance = start(&town, worker, by(&town, worker, nats.port(), postgres.port()));
        ready(&instance).await;
        town.adopt(instance);
        wires.push(Wired { worker, nats, postgres });
    }
    (town, wires)
}

/// Everything that the fleet does, with things of these names, after `since`.
async fn everything_is_done(town: &Town, producer: &Producer, name: &str, since: OffsetDateTime) {
    let insist = async |verb: &str, what: String, payload| {
        let done = producer.insist(&format!("{name}-{verb}"), &what, payload).await;
        assert!(done.status < 300, "{what}: {}", done.body());
    };
    let (cart, table) = (format!("cart.c{name}"), format!("table.t{name}"));
    let open = json!({"kind": "menu", "owner": format!("u{name}"), "currency": "EUR"});
    insist("open", format!("{cart}.open"), open).await;
    insist("add", format!("{cart}.add_item"), item("i1", 100, 1)).await;
    insist("lock", format!("{cart}.lock"), json!({"method": "card", "transaction_id": name})).await;
    insist("table", format!("{table}.register"), json!({"label": name, "seats": 4})).await;
    insist("order", format!("order.o{name}.place"), placed(&[("Soup", 500, 1)])).await;
    // edge.
    until("the order to be seen", || async {
        let view = format!("q.t1.view.order.o{name}");
        let seen = producer.request_within(Duration::from_secs(1), &view, &[], b"").await?;
        (seen.status == 200).then_some(())
    })
    .await;
    // cart-lock-expiry.
    until_no_lock_is_held(town).await;
    // table-status-reconciler.
    sqlx::query("update brigade.tables set status = 'occupied' where id = $1")
        .bind(format!("t{name}"))
        .execute(&town.sql)
        .await
        .expect("sql");
    until("the ghost to be repaired", || async {
        let free = "select status = 'available' from brigade.tables where id = $1";
        let free = sqlx::query_scalar::<_, bool>(free).bind(format!("t{name}"));
        free.fetch_one(&town.sql).await.ok()?.then_some(())
    })
    .await;
    // cache-verifier: marks, and each duty that is held by a lease.
    until("a new mark", || async {
        let noted = "select max(noted_at) > $1 from brigade.stream_marks";
        let noted = sqlx::query_scalar::<_, bool>(noted).bind(since);
        noted.fetch_one(&town.sql).await.ok()?.then_some(())
    })
    .await;
    until("the duties to be held", || async {
        // Nobody held them that long before this without renewing them after it.
        let held = "select count(*) from brigade.leases
                    where name in ('cart-lock-expiry.sweep', 'command-handler.projection-backlog',
                                   'command-handler.housekeeping', 'cache-verifier.checkpoints',
                                   'cache-verifier.audit')
                      and until > $1 + interval '2 seconds'";
        let held = sqlx::query_scalar::<_, i64>(held).bind(since);
        (held.fetch_one(&town.sql).await.ok()? == 5).then_some(())
    })
    .await;
    // outbox-relay, and both projectors.
    town.until_idle().await;
}

async fn now(town: &Town) -> OffsetDateTime {
    sqlx::query_scalar("select clock_timestamp()").fetch_one(&town.sql).await.expect("a time")
}

async fn each_goes_silent(server: &str, wire: fn(&Wired) -> &TcpProxy) {
    let (town, wires) = wired().await;
    let producer = town.producer().await;
    let began = now(&town).await;
    everything_is_done(&town, &producer, "before", began).await;
    for wired in &wires {
        let (since, started) = (now(&town).await, Instant::now());
        wire(wired).silence();
        everything_is_done(&town, &producer, &format!("{}", wired.worker), since).await;
        println!("{} works {:?} after {server} went silent", wired.worker, started.elapsed());
    }
    let restarts = |wired: &Wired| {
        town.metrics
            .group::<FleetMetrics>()
            .restarts
            .with_label_values(&[wired.worker.as_str()])
            .get()
    };
    assert_eq!(wires.iter().map(restarts).sum::<u64>(), 0, "nobody had to be started again");
    // Nothing was dead-lettered: that is looked at after every test.
    town.finish().await;
}

#[tokio::test]
async fn s5_06_a_connection_to_postgres_that_goes_silent_stops_no_worker() {
    each_goes_silent("Postgres", |wired| &wired.postgres).await;
}

#[tokio::test]
async fn s5_06_a_connection_to_nats_that_goes_silent_stops_no_worker() {
    each_goes_silent("NATS", |wired| &wired.nats).await;
}

#[tokio::test]
async fn s5_06_edge_is_not_ready_while_postgres_is_silent_though_nobody_asks() {
    let town = Town::empty_with_own_postgres().await;
    let edge = town.instance(WorkerName::Edge);
    ready(&edge).await;
    let postgres = town.postgres.as_ref().unwrap().pid();
    let all = std::fs::read_to_string(format!("/proc/{postgres}/task/{postgres}/children"));
    let all: Vec<u32> = all.unwrap().split_whitespace().map(|id| id.parse().unwrap()).collect();
    for process in all.iter().chain([&postgres]) {
        signal(*process, "STOP").await;
    }
    until("edge to find out", || async {
        edge.health.ready().err().filter(|why| why.contains("postgres")).map(drop)
    })
    .await;
    for process in all.iter().chain([&postgres]) {
        signal(*process, "CONT").await;
    }
    ready(&edge).await;
    edge.stop().await;
}

/// Waits until a worker has done what only it does.
async fn own_work_is_done(
    town: &Town,
    producer: &Producer,
    worker: WorkerName,
    name: &str,
    since: OffsetDateTime,
) {
    let (order, place) = (format!("order.{name}.place"), placed(&[("Soup", 500, 1)]));
    match worker {
        WorkerName::CommandHandler => {
            producer.insist(name, &order, place).await;
        }
        WorkerName::OutboxRelay => {
            producer.insist(name, &order, place).await;
            town.until_relayed().await;
        }
        WorkerName::PaymentProjector => {
            producer.insist(name, &order, place).await;
            town.until_idle().await;
        }
        WorkerName::UserStateProjector => {
            let register = json!({
                "email": format!("{name}@example.org"), "profile_id": "p",
                "password": "correct horse",
            });
            let what = format!("user.{name}.register");
            assert!(producer.insist(name, &what, register).await.status < 300);
            town.until_idle().await;
        }
        WorkerName::CartLockExpiry => until_no_lock_is_held(town).await,
        WorkerName::TableStatusReconciler => {
            let ghost = "update brigade.tables set status = 'occupied' where id = 'tbefore'";
            sqlx::query(ghost).execute(&town.sql).await.expect("sql");
            until("the ghost to be repaired", || async {
                let free = "select status = 'available' from brigade.tables where id = 'tbefore'";
                sqlx::query_scalar::<_, bool>(free).fetch_one(&town.sql).await.ok()?.then_some(())
            })
            .await;
        }
        WorkerName::CacheVerifier => {
            until("a new mark", || async {
                let noted = "select max(noted_at) > $1 from brigade.stream_marks";
                let noted = sqlx::query_scalar::<_, bool>(noted).bind(since);
                noted.fetch_one(&town.sql).await.ok()?.then_some(())
            })
            .await;
        }
        WorkerName::Edge => {
            until("the order to be seen", || async {
                let one_try = Duration::from_millis(500);
                let view = "q.t1.view.order.obefore";
                let seen = producer.request_within(one_try, view, &[], b"").await?;
                (seen.status == 200).then_some(())
            })
            .await;
        }
    }
}

/// Makes a worker's connection to a server silent.
type Silence = fn(&Wired);

/// Not a test of a promise: prints how long each worker needs for what only it does, when nothing
/// is wrong and after its connection to a server went silent.
#[tokio::test]
#[ignore = "prints times, which depend on the machine"]
async fn s5_06_recovery_of_each_worker() {
    let (town, wires) = wired().await;
    let producer = town.producer().await;
    everything_is_done(&town, &producer, "before", now(&town).await).await;
    let silences: [(&str, Silence); 3] = [
        ("neither", |_| {}),
        ("Postgres", |wired| wired.postgres.silence()),
        ("NATS", |wired| wired.nats.silence()),
    ];
    for wired in &wires {
        for (server, silence) in silences {
            for round in 0..3 {
                let name = format!("{}-{server}-{round}", wired.worker);
                if wired.worker == WorkerName::CartLockExpiry {
                    let (cart, owner) = (format!("cart.{name}"), format!("u-{name}"));
                    let open = json!({"kind": "menu", "owner": owner, "currency": "EUR"});
                    let insist = async |n: u8, verb: &str, payload| {
                        let id = format!("{name}-{n}");
                        let done = producer.insist(&id, &format!("{cart}.{verb}"), payload).await;
                        assert!(done.status < 300, "{verb}: {}", done.body());
                    };
                    insist(1, "open", open).await;
                    insist(2, "add_item", item("i1", 100, 1)).await;
                    // For a second: that much of the time is no delay.
                    let lock = json!({"method": "card", "transaction_id": name});
                    insist(3, "lock", lock).await;
                }
                let (since, started) = (now(&town).await, Instant::now());
                silence(wired);
                own_work_is_done(&town, &producer, wired.worker, &name, since).await;
                println!("{} {server} silent: {:?}", wired.worker, started.elapsed());
                town.until_idle().await;
            }
        }
    }
}

/// Two of a worker, of which one is by a gate to NATS, the other holds nothing yet.
async fn one_by_a_gate(town: &Town, worker: WorkerName) -> (TcpProxy, Instance) {
    let gate = TcpProxy::to(town.nats.port()).await;
    let postgres = postgres_port(town);
    let instance = start(town, worker, by(town, worker, gate.port(), postgres));
    ready(&instance).await;
    (gate, instance)
}

async fn holders(town: &Town, names: &str) -> Vec<String> {
    let holders = "select distinct holder from brigade.leases
                   where name like $1 and holder <> '' and until > now()";
    sqlx::query_scalar(holders).bind(names).fetch_all(&town.sql).await.expect("sql")
}

#[tokio::test]
async fn s5_06_shards_of_a_relay_that_is_cut_off_from_nats_move_to_another() {
    let mut town = Town::empty().await;
    town.run(WorkerName::CommandHandler).await;
    town.run(WorkerName::PaymentProjector).await;
    town.run(WorkerName::UserStateProjector).await;
    let (gate, cut_off) = one_by_a_gate(&town, WorkerName::OutboxRelay).await;
    town.run(WorkerName::OutboxRelay).await;
    until("both to have shards", || async {
        (holders(&town, "outbox-relay.share.%").await.len() == 2).then_some(())
    })
    .await;
    let producer = town.producer().await;
    gate.shut();
    let started = Instant::now();
    for n in 0..64 {
        let place = placed(&[("Soup", 500, 1)]);
        producer.done(&format!("order.o{n}.place"), place).await;
    }
    town.until_relayed().await;
    println!("relayed {:?} after the cut", started.elapsed());
    assert_eq!(holders(&town, "outbox-relay.share.%").await.len(), 1);
    assert!(cut_off.health.ready().is_err());
    // It is fit again as soon as it is connected.
    gate.open();
    until("both to have shards", || async {
        (holders(&town, "outbox-relay.share.%").await.len() == 2).then_some(())
    })
    .await;
    ready(&cut_off).await;
    cut_off.stop().await;
    town.finish().await;
}

#[tokio::test]
async fn s5_06_the_look_for_overdue_locks_moves_from_one_that_is_cut_off_from_nats() {
    let mut town = Town::empty().await;
    let (gate, cut_off) = one_by_a_gate(&town, WorkerName::CartLockExpiry).await;
    let first = until("the first to hold it", || async {
        holders(&town, "cart-lock-expiry.sweep").await.pop()
    })
    .await;
    town.run(WorkerName::CartLockExpiry).await;
    assert_eq!(holders(&town, "cart-lock-expiry.sweep").await, std::slice::from_ref(&first));
    gate.shut();
    let started = Instant::now();
    until("the other to hold it", || async {
        holders(&town, "cart-lock-expiry.sweep").await.pop().filter(|holder| *holder != first)
    })
    .await;
    println!("moved {:?} after the cut", started.elapsed());
    gate.open();
    ready(&cut_off).await;
    cut_off.stop().await;
    town.finish().await;
}

/// The look that hangs never ends: the test lets it go only after its worker was started again.
#[tokio::test]
async fn a_worker_one_of_whose_duties_hangs_is_started_again() {
    let mut town = Town::start().await;
    town.has_ghosts = true;
    let producer = town.producer().await;
    producer.done("table.a.register", json!({"label": "a", "seats": 4})).await;
    let armed = town.fail.arm("table-status-reconciler.before_send");
    let ghost = "update brigade.tables set status = 'occupied' where id = 'a'";
    sqlx::query(ghost).execute(&town.sql).await.expect("sql");
    armed.reached().await;
    let http = town.http().await;
    let worker = WorkerName::TableStatusReconciler.as_str();
    until("a new start", || async {
        let alive = reqwest::get(format!("{http}/livez")).await.expect("an answer");
        assert_eq!(alive.status(), 200, "it is not yet too late");
        (town.metrics.group::<FleetMetrics>().restarts.with_label_values(&[worker]).get() == 1)
            .then_some(())
    })
    .await;
    town.fail.disarm("table-status-reconciler.before_send");
    until("the ghost to be repaired", || async {
        let free = "select status = 'available' from brigade.tables where id = 'a'";
        sqlx::query_scalar::<_, bool>(free).fetch_one(&town.sql).await.ok()?.then_some(())
    })
    .await;
    town.finish().await;
}
