//! A handler that is stopped in the middle of a payment, for longer than the lock lives, and goes
//! on later: what it read is not true any more, and what it writes is refused.

use std::time::{Duration, Instant};

use brigade_contracts::WorkerName;
use brigade_tests::{Producer, Reply, Town, deadlines, money, process::Process};
use serde_json::{Value, json};

use super::{captured, cart, lock, policy};

/// What Postgres gives a transaction that is idle, a lock and a statement (ARCHITECTURE, Batches)
/// besides each other: longer than that nobody waits for a process that is stopped.
const LONGEST: Duration = Duration::from_millis(1000 + 500 + 5000);

/// A town of which a handler has stopped itself at a step of one command.
struct Stopped {
    town: Town,
    producer: Producer,
    process: Process,
    /// Its answer, when it comes.
    late: tokio::task::JoinHandle<Reply>,
}

impl Stopped {
    async fn at(point: &str, town: Town, what: &str, payload: Value) -> Self {
        let mut town = town;
        let producer = town.producer().await;
        town.stop_one(WorkerName::CommandHandler).await;
        let point = format!("stop:command-handler.{point}");
        let process = Process::start(&town, &[WorkerName::CommandHandler], Some(&point)).await;
        let late = tokio::spawn({
            let (producer, what) = (producer.clone(), format!("req.t1.{what}"));
            async move {
                let headers = [("Command-Id", "late")];
                let payload = payload.to_string();
                let minute = Duration::from_secs(60);
                let asked = producer.request_within(minute, &what, &headers, payload.as_bytes());
                asked.await.expect("an answer")
            }
        });
        process.stopped().await;
        town.run(WorkerName::CommandHandler).await;
        Self { town, producer, process, late }
    }

    /// Another handler goes on: what it is asked meanwhile is answered in time, the lock that the
    /// stopped one relies on ends, and the cart is changed.
    async fn others_go_on(&self) {
        let asked = Instant::now();
        let locked = self.patiently("cart.c1.add_item", brigade_tests::producer::item("i2", 1, 1));
        assert!([200, 423].contains(&locked.await.status));
        let waited = asked.elapsed();
        println!("another waited for {:.1} s", waited.as_secs_f64());
        assert!(waited < LONGEST, "{waited:?}");
        deadlines::until_no_lock_is_held(&self.town).await;
        println!("outlived their deadlines: {:?}", deadlines::outlived(&self.town).await);
        let added = self.patiently("cart.c1.add_item", brigade_tests::producer::item("i3", 1, 1));
        assert_eq!(added.await.status, 200);
    }

    /// Requests that the stopped process took from the queue group are never answered, so they are
    /// sent again.
    async fn patiently(&self, what: &str, payload: Value) -> Reply {
        self.producer.insist(&uuid::Uuid::now_v7().to_string(), what, payload).await
    }

    async fn goes_on(self) -> (Town, Producer, Reply) {
        self.process.goes_on().await;
        let late = self.late.await.unwrap();
        self.process.kill().await;
        (self.town, self.producer, late)
    }
}

/// A payment of a cart is open under a lock that lives for 3 s, whatever is open.
async fn payment() -> Town {
    let mut town = Town::empty().await;
    let seconds = Duration::from_secs(3);
    town.settings.lock_policy = brigade_domain::LockPolicy { cap: seconds, ..policy(seconds) };
    town.run_all().await;
    let producer = town.producer().await;
    cart(&producer, "c1", "ada").await;
    let initiate = json!({"target": {"cart": "c1"}, "method": "card"});
    assert_eq!(producer.send("payment.p1.initiate", initiate).await.status, 201);
    town
}

async fn a_late_capture_is_fenced(point: &str) {
    let town = payment().await;
    let what = "payment.p1.record_result";
    let stopped = Stopped::at(point, town, what, captured("tx1")).await;
    stopped.others_go_on().await;
    let (town, producer, late) = stopped.goes_on().await;
    // It looked again: the lock had gone and the cart is another, so the money is owed back.
    assert_eq!(late.status, 200, "{:?}", late.body());
    assert_eq!(late.body()["data"]["core"]["status"], "late_captured", "{:?}", late.body());
    assert_eq!(late.body()["data"]["refund_tasks"][0]["amount"], 1000);
    let view = producer.view("cart.c1", None).await;
    assert_eq!(view.body()["payments"]["paid"], 0);
    money::invariants(&town).await;
    town.finish().await;
}

#[tokio::test]
async fn s2_08_a_capture_by_a_handler_that_was_stopped_before_it_wrote_is_fenced() {
    a_late_capture_is_fenced("before_write").await;
}

#[tokio::test]
async fn s2_08_a_capture_by_a_handler_that_was_stopped_before_it_committed_is_fenced() {
    a_late_capture_is_fenced("before_commit").await;
}

#[tokio::test]
async fn s2_08_a_release_by_a_handler_that_was_stopped_leaves_the_next_lock_alone() {
    let town = {
        let mut town = Town::empty().await;
        town.settings.lock_policy = policy(Duration::from_secs(3));
        town.run_all().await;
        town
    };
    let producer = town.producer().await;
    cart(&producer, "c1", "ada").await;
    let token = lock(&producer, "c1").await;
    let unlock = json!({"token": token, "reason": "done"});
    let stopped = Stopped::at("before_commit", town, "cart.c1.unlock", unlock).await;
    stopped.others_go_on().await;
    let again = json!({"transaction_id": "t2", "method": "card"});
    let again = stopped.patiently("cart.c1.lock", again).await;
    assert_eq!(again.status, 200, "{:?}", again.body());
    let next = again.body()["data"]["token"].as_i64().unwrap();
    assert!(next > token);
    let (town, producer, late) = stopped.goes_on().await;
    assert_eq!((late.status, late.code().as_str()), (409, "stale_token"));
    let ended: i64 = sqlx::query_scalar(
        "select count(*) from brigade.cart_lock_history
         where action = 'released' or action = 'expired' and token = $1",
    )
    .bind(token)
    .fetch_one(&town.sql)
    .await
    .unwrap();
    assert_eq!(ended, 1, "the first lock ended once, and nobody released the second");
    drop(producer);
    deadlines::until_no_lock_is_held(&town).await;
    money::invariants(&town).await;
    town.finish().await;
}
