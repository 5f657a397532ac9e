//! S5-06: connections that are dead without an error, and duties of workers that cannot do them.

use brigade::fleet::FleetMetrics;
use std::time::{Duration, Instant};

use brigade::fleet::{Instance, Servers};
use brigade_contracts::WorkerName;
use brigade_domain::LockPolicy;
use brigade_tests::{
    Producer, TestFleet,
    deadlines::until_no_lock_is_held,
    process::signal,
    producer::{item, placed},
    proxy::TcpProxy,
    until, until_ready,
};
use serde_json::json;
use time::OffsetDateTime;

/// Returns the servers of a worker by other ports.
fn by(fleet: &TestFleet, worker: WorkerName, nats: u16, postgres: u16) -> Servers {
    let servers = fleet.servers(worker);
    let url = |url: &str, from: u16, to: u16| url.replace(&format!(":{from}"), &format!(":{to}"));
    Servers {
        nats_url: url(&servers.nats_url, fleet.nats.port(), nats),
        postgres_url: url(&servers.postgres_url, postgres_port(fleet), postgres),
        ..servers
    }
}

fn postgres_port(fleet: &TestFleet) -> u16 {
    fleet.sql.connect_options().get_port()
}

fn start(fleet: &TestFleet, worker: WorkerName, servers: Servers) -> Instance {
    Instance::start(worker, servers, fleet.metrics.clone(), fleet.fail.clone())
}

/// A worker and its proxies to both servers.
struct ProxiedWorker {
    worker: WorkerName,
    nats: TcpProxy,
    postgres: TcpProxy,
}

/// Starts a fleet whose workers have proxies of their own to both servers.
async fn proxied_fleet() -> (TestFleet, Vec<ProxiedWorker>) {
    let mut fleet = TestFleet::empty().await;
    fleet.expects_findings = true;
    let soon = Duration::from_secs(1);
    fleet.settings.lock_policy =
        LockPolicy { card: soon, wallet: soon, qr: soon, cash: soon, ..LockPolicy::default() };
    let mut proxied_workers = Vec::new();
    for worker in WorkerName::ALL {
        let (nats, postgres) = (
            TcpProxy::to(fleet.nats.port()).await.unwrap(),
            TcpProxy::to(postgres_port(&fleet)).await.unwrap(),
        );
        let instance = start(&fleet, worker, by(&fleet, worker, nats.port(), postgres.port()));
        until_ready(&instance).await;
        fleet.adopt(instance);
        proxied_workers.push(ProxiedWorker { worker, nats, postgres });
    }
    (fleet, proxied_workers)
}

/// Makes every worker do its work, on aggregates of this name, and waits for it.
async fn everything_is_done(
    fleet: &TestFleet,
    producer: &Producer,
    name: &str,
    since: OffsetDateTime,
) {
    let insist = async |verb: &str, what: String, payload| {
        let done = producer.send_until_decided(&format!("{name}-{verb}"), &what, payload).await;
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
    until_no_lock_is_held(fleet).await;
    // table-status-reconciler.
    sqlx::query("update brigade.tables set status = 'occupied' where id = $1")
        .bind(format!("t{name}"))
        .execute(&fleet.sql)
        .await
        .expect("sql");
    until("the ghost to be repaired", || async {
        let free = "select status = 'available' from brigade.tables where id = $1";
        let free = sqlx::query_scalar::<_, bool>(free).bind(format!("t{name}"));
        free.fetch_one(&fleet.sql).await.ok()?.then_some(())
    })
    .await;
    // cache-verifier: checkpoints, and each duty that is held by a lease.
    until("a new checkpoint", || async {
        let newer = "select max(taken_at) > $1 from brigade.stream_checkpoints";
        let newer = sqlx::query_scalar::<_, bool>(newer).bind(since);
        newer.fetch_one(&fleet.sql).await.ok()?.then_some(())
    })
    .await;
    until("the duties to be held", || async {
        // Nobody held them that long before this without renewing them after it.
        let held = "select count(*) from brigade.leases
                    where name in ('cart-lock-expiry.sweep', 'command-handler.projection-backlog',
                                   'command-handler.heal-backlog', 'command-handler.housekeeping',
                                   'cache-verifier.checkpoints', 'cache-verifier.heals',
                                   'cache-verifier.audit', 'cache-verifier.money',
                                   'cache-verifier.fleet')
                      and until > $1 + interval '2 seconds'";
        let held = sqlx::query_scalar::<_, i64>(held).bind(since);
        (held.fetch_one(&fleet.sql).await.ok()? == 9).then_some(())
    })
    .await;
    // outbox-relay, and both projectors.
    fleet.until_idle().await;
}

async fn now(fleet: &TestFleet) -> OffsetDateTime {
    sqlx::query_scalar("select clock_timestamp()").fetch_one(&fleet.sql).await.expect("a time")
}

async fn each_goes_silent(server: &str, proxy: fn(&ProxiedWorker) -> &TcpProxy) {
    let (fleet, proxied_workers) = proxied_fleet().await;
    let producer = fleet.producer().await;
    let began = now(&fleet).await;
    everything_is_done(&fleet, &producer, "before", began).await;
    for proxied in &proxied_workers {
        let (since, started) = (now(&fleet).await, Instant::now());
        proxy(proxied).silence();
        everything_is_done(&fleet, &producer, &format!("{}", proxied.worker), since).await;
        println!("{} works {:?} after {server} went silent", proxied.worker, started.elapsed());
    }
    let restarts = |proxied: &ProxiedWorker| {
        fleet
            .metrics
            .group::<FleetMetrics>()
            .restarts
            .with_label_values(&[proxied.worker.as_str()])
            .get()
    };
    assert_eq!(
        proxied_workers.iter().map(restarts).sum::<u64>(),
        0,
        "nobody had to be started again"
    );
    // Nothing was dead-lettered: that is looked at after every test.
    fleet.finish().await;
}

#[tokio::test]
async fn s5_06_a_connection_to_postgres_that_goes_silent_stops_no_worker() {
    each_goes_silent("Postgres", |proxied| &proxied.postgres).await;
}

#[tokio::test]
async fn s5_06_a_connection_to_nats_that_goes_silent_stops_no_worker() {
    each_goes_silent("NATS", |proxied| &proxied.nats).await;
}

#[tokio::test]
async fn s5_06_edge_is_not_ready_while_postgres_is_silent_though_nobody_asks() {
    let fleet = TestFleet::empty_with_own_postgres().await;
    let edge = fleet.instance(WorkerName::Edge);
    until_ready(&edge).await;
    let postgres = fleet.postgres().pid();
    // First who starts the others, so that there are no more of them; an autovacuum may end meanwhile.
    signal(postgres, "STOP").await;
    let all = std::fs::read_to_string(format!("/proc/{postgres}/task/{postgres}/children"));
    let all: Vec<u32> = all.unwrap().split_whitespace().map(|id| id.parse().unwrap()).collect();
    for process in &all {
        signal(*process, "STOP").await;
    }
    until("edge to find out", || async {
        edge.health.ready().err().filter(|why| why.contains("postgres")).map(drop)
    })
    .await;
    for process in all.iter().chain([&postgres]) {
        signal(*process, "CONT").await;
    }
    until_ready(&edge).await;
    edge.stop().await;
}

/// Waits until a worker has done the work that only it does.
async fn own_work_is_done(
    fleet: &TestFleet,
    producer: &Producer,
    worker: WorkerName,
    name: &str,
    since: OffsetDateTime,
) {
    let (order, place) = (format!("order.{name}.place"), placed(&[("Soup", 500, 1)]));
    match worker {
        WorkerName::CommandHandler => {
            producer.send_until_decided(name, &order, place).await;
        }
        WorkerName::OutboxRelay => {
            producer.send_until_decided(name, &order, place).await;
            fleet.until_relayed().await;
        }
        WorkerName::PaymentProjector => {
            producer.send_until_decided(name, &order, place).await;
            fleet.until_idle().await;
        }
        WorkerName::UserStateProjector => {
            let register = json!({
                "email": format!("{name}@example.org"), "profile_id": "p",
                "password": "correct horse",
            });
            let what = format!("user.{name}.register");
            assert!(producer.send_until_decided(name, &what, register).await.status < 300);
            fleet.until_idle().await;
        }
        WorkerName::CartLockExpiry => until_no_lock_is_held(fleet).await,
        WorkerName::TableStatusReconciler => {
            let ghost = "update brigade.tables set status = 'occupied' where id = 'tbefore'";
            sqlx::query(ghost).execute(&fleet.sql).await.expect("sql");
            until("the ghost to be repaired", || async {
                let free = "select status = 'available' from brigade.tables where id = 'tbefore'";
                sqlx::query_scalar::<_, bool>(free).fetch_one(&fleet.sql).await.ok()?.then_some(())
            })
            .await;
        }
        WorkerName::CacheVerifier => {
            until("a new checkpoint", || async {
                let newer = "select max(taken_at) > $1 from brigade.stream_checkpoints";
                let newer = sqlx::query_scalar::<_, bool>(newer).bind(since);
                newer.fetch_one(&fleet.sql).await.ok()?.then_some(())
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
type Silence = fn(&ProxiedWorker);

/// A measurement: prints how long each worker needs for its own work, when nothing is wrong and
/// after its connection to a server went silent.
#[tokio::test]
#[ignore = "prints times, which depend on the machine"]
async fn s5_06_recovery_of_each_worker() {
    let (fleet, proxied_workers) = proxied_fleet().await;
    let producer = fleet.producer().await;
    everything_is_done(&fleet, &producer, "before", now(&fleet).await).await;
    let silences: [(&str, Silence); 3] = [
        ("neither", |_| {}),
        ("Postgres", |proxied| proxied.postgres.silence()),
        ("NATS", |proxied| proxied.nats.silence()),
    ];
    for proxied in &proxied_workers {
        for (server, silence) in silences {
            for round in 0..3 {
                let name = format!("{}-{server}-{round}", proxied.worker);
                if proxied.worker == WorkerName::CartLockExpiry {
                    let (cart, owner) = (format!("cart.{name}"), format!("u-{name}"));
                    let open = json!({"kind": "menu", "owner": owner, "currency": "EUR"});
                    let insist = async |n: u8, verb: &str, payload| {
                        let id = format!("{name}-{n}");
                        let done = producer
                            .send_until_decided(&id, &format!("{cart}.{verb}"), payload)
                            .await;
                        assert!(done.status < 300, "{verb}: {}", done.body());
                    };
                    insist(1, "open", open).await;
                    insist(2, "add_item", item("i1", 100, 1)).await;
                    // For a second: that much of the time is no delay.
                    let lock = json!({"method": "card", "transaction_id": name});
                    insist(3, "lock", lock).await;
                }
                let (since, started) = (now(&fleet).await, Instant::now());
                silence(proxied);
                own_work_is_done(&fleet, &producer, proxied.worker, &name, since).await;
                println!("{} {server} silent: {:?}", proxied.worker, started.elapsed());
                fleet.until_idle().await;
            }
        }
    }
}

/// Starts an instance of a worker that reaches NATS by a proxy.
async fn one_by_a_proxy(fleet: &TestFleet, worker: WorkerName) -> (TcpProxy, Instance) {
    let proxy = TcpProxy::to(fleet.nats.port()).await.unwrap();
    let postgres = postgres_port(fleet);
    let instance = start(fleet, worker, by(fleet, worker, proxy.port(), postgres));
    until_ready(&instance).await;
    (proxy, instance)
}

async fn holders(fleet: &TestFleet, names: &str) -> Vec<String> {
    let holders = "select distinct holder from brigade.leases
                   where name like $1 and holder <> '' and until > now()";
    sqlx::query_scalar(holders).bind(names).fetch_all(&fleet.sql).await.expect("sql")
}

#[tokio::test]
async fn s5_06_shards_leave_a_relay_cut_off_from_nats() {
    let mut fleet = TestFleet::empty().await;
    fleet.run(WorkerName::CommandHandler).await;
    fleet.run(WorkerName::PaymentProjector).await;
    fleet.run(WorkerName::UserStateProjector).await;
    let (proxy, cut_off) = one_by_a_proxy(&fleet, WorkerName::OutboxRelay).await;
    fleet.run(WorkerName::OutboxRelay).await;
    until("both to have shards", || async {
        (holders(&fleet, "outbox-relay.share.%").await.len() == 2).then_some(())
    })
    .await;
    let producer = fleet.producer().await;
    proxy.shut();
    let started = Instant::now();
    for n in 0..64 {
        let place = placed(&[("Soup", 500, 1)]);
        producer.done(&format!("order.o{n}.place"), place).await;
    }
    fleet.until_relayed().await;
    println!("relayed {:?} after the cut", started.elapsed());
    assert_eq!(holders(&fleet, "outbox-relay.share.%").await.len(), 1);
    assert!(cut_off.health.ready().is_err());
    // It is fit again as soon as it is connected.
    proxy.open();
    until("both to have shards", || async {
        (holders(&fleet, "outbox-relay.share.%").await.len() == 2).then_some(())
    })
    .await;
    until_ready(&cut_off).await;
    cut_off.stop().await;
    fleet.finish().await;
}

#[tokio::test]
async fn s5_06_the_sweep_of_overdue_locks_leaves_an_instance_cut_off_from_nats() {
    let mut fleet = TestFleet::empty().await;
    let (proxy, cut_off) = one_by_a_proxy(&fleet, WorkerName::CartLockExpiry).await;
    let first = until("the first to hold it", || async {
        holders(&fleet, "cart-lock-expiry.sweep").await.pop()
    })
    .await;
    fleet.run(WorkerName::CartLockExpiry).await;
    assert_eq!(holders(&fleet, "cart-lock-expiry.sweep").await, std::slice::from_ref(&first));
    proxy.shut();
    let started = Instant::now();
    until("the other to hold it", || async {
        holders(&fleet, "cart-lock-expiry.sweep").await.pop().filter(|holder| *holder != first)
    })
    .await;
    println!("moved {:?} after the cut", started.elapsed());
    proxy.open();
    until_ready(&cut_off).await;
    cut_off.stop().await;
    fleet.finish().await;
}

/// The round that hangs never ends: the test releases it only after its worker was restarted.
#[tokio::test]
async fn a_worker_one_of_whose_duties_hangs_is_started_again() {
    let mut fleet = TestFleet::start().await;
    fleet.expects_findings = true;
    let producer = fleet.producer().await;
    producer.done("table.a.register", json!({"label": "a", "seats": 4})).await;
    let armed = fleet.fail.arm("table-status-reconciler.before_send");
    let ghost = "update brigade.tables set status = 'occupied' where id = 'a'";
    sqlx::query(ghost).execute(&fleet.sql).await.expect("sql");
    armed.reached().await;
    let url = fleet.admin_url().await;
    let worker = WorkerName::TableStatusReconciler.as_str();
    until("a new start", || async {
        let alive = reqwest::get(format!("{url}/livez")).await.expect("an answer");
        assert_eq!(alive.status(), 200, "it is not yet too late");
        (fleet.metrics.group::<FleetMetrics>().restarts.with_label_values(&[worker]).get() == 1)
            .then_some(())
    })
    .await;
    fleet.fail.disarm("table-status-reconciler.before_send");
    until("the ghost to be repaired", || async {
        let free = "select status = 'available' from brigade.tables where id = 'a'";
        sqlx::query_scalar::<_, bool>(free).fetch_one(&fleet.sql).await.ok()?.then_some(())
    })
    .await;
    fleet.finish().await;
}
