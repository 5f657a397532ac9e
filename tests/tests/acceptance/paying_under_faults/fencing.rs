//! A handler that is stopped in the middle of a payment for longer than the lock lives, and goes on
//! later: what it read is out of date, and its writes are refused.

use std::time::{Duration, Instant};

use brigade_contracts::WorkerName;
use brigade_tests::{Producer, Reply, TestFleet, deadlines, money, process::Process};
use serde_json::{Value, json};

use super::{captured, cart, lock, policy};

/// The sum of Postgres's time-outs for an idle transaction, a lock and a statement: nobody waits
/// longer for a process that is stopped.
const LONGEST: Duration = Duration::from_millis(1000 + 500 + 5000);

/// A fleet whose handler has stopped itself at a step of one command.
struct Stopped {
    fleet: TestFleet,
    producer: Producer,
    process: Process,
    /// The answer to that command, when it comes.
    late: tokio::task::JoinHandle<Reply>,
}

impl Stopped {
    async fn at(point: &str, fleet: TestFleet, what: &str, payload: Value) -> Self {
        let mut fleet = fleet;
        let producer = fleet.producer().await;
        fleet.stop_one(WorkerName::CommandHandler).await;
        let point = format!("stop:command-handler.{point}");
        let process = Process::start(&fleet, &[WorkerName::CommandHandler], Some(&point)).await;
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
        fleet.run(WorkerName::CommandHandler).await;
        Self { fleet, producer, process, late }
    }

    /// Starts another handler: it answers in time meanwhile, the lock that the stopped one relies
    /// on ends, and the cart is changed.
    async fn others_go_on(&self) {
        let asked = Instant::now();
        let locked = self.patiently("cart.c1.add_item", brigade_tests::producer::item("i2", 1, 1));
        assert!([200, 423].contains(&locked.await.status));
        let waited = asked.elapsed();
        println!("another waited for {:.1} s", waited.as_secs_f64());
        assert!(waited < LONGEST, "{waited:?}");
        deadlines::until_no_lock_is_held(&self.fleet).await;
        println!("outlived their deadlines: {:?}", deadlines::outlived(&self.fleet).await);
        let added = self.patiently("cart.c1.add_item", brigade_tests::producer::item("i3", 1, 1));
        assert_eq!(added.await.status, 200);
    }

    /// Sends a command until it is answered: requests that the stopped process took from the queue
    /// group never are.
    async fn patiently(&self, what: &str, payload: Value) -> Reply {
        self.producer.send_until_decided(&uuid::Uuid::now_v7().to_string(), what, payload).await
    }

    async fn resume(self) -> (TestFleet, Producer, Reply) {
        self.process.resume().await;
        let late = self.late.await.unwrap();
        self.process.kill().await;
        (self.fleet, self.producer, late)
    }
}

/// Starts a fleet with an open payment of a cart, whose lock lives for 3 s.
async fn payment() -> TestFleet {
    let mut fleet = TestFleet::empty().await;
    let seconds = Duration::from_secs(3);
    fleet.settings.lock_policy = brigade_domain::LockPolicy { cap: seconds, ..policy(seconds) };
    fleet.run_all().await;
    let producer = fleet.producer().await;
    cart(&producer, "c1", "ada").await;
    let initiate = json!({"target": {"cart": "c1"}, "method": "card"});
    assert_eq!(producer.send("payment.p1.initiate", initiate).await.status, 201);
    fleet
}

async fn a_late_capture_is_fenced(point: &str) {
    let fleet = payment().await;
    let what = "payment.p1.record_result";
    let stopped = Stopped::at(point, fleet, what, captured("tx1")).await;
    stopped.others_go_on().await;
    let (fleet, producer, late) = stopped.resume().await;
    // It looked again: the lock had gone and the cart is another, so the money is owed back.
    assert_eq!(late.status, 200, "{:?}", late.body());
    assert_eq!(late.body()["data"]["core"]["status"], "late_captured", "{:?}", late.body());
    assert_eq!(late.body()["data"]["refund_tasks"][0]["amount"], 1000);
    let view = producer.view("cart.c1", None).await;
    assert_eq!(view.body()["payments"]["paid"], 0);
    money::invariants(&fleet).await;
    fleet.finish().await;
}

#[tokio::test]
async fn s2_08_a_capture_by_a_handler_stopped_before_its_write_is_fenced() {
    a_late_capture_is_fenced("before_write").await;
}

#[tokio::test]
async fn s2_08_a_capture_by_a_handler_stopped_before_its_commit_is_fenced() {
    a_late_capture_is_fenced("before_commit").await;
}

#[tokio::test]
async fn s2_08_a_release_by_a_stopped_handler_leaves_the_next_lock_alone() {
    let fleet = {
        let mut fleet = TestFleet::empty().await;
        fleet.settings.lock_policy = policy(Duration::from_secs(3));
        fleet.run_all().await;
        fleet
    };
    let producer = fleet.producer().await;
    cart(&producer, "c1", "ada").await;
    let token = lock(&producer, "c1").await;
    let unlock = json!({"token": token, "reason": "done"});
    let stopped = Stopped::at("before_commit", fleet, "cart.c1.unlock", unlock).await;
    stopped.others_go_on().await;
    let again = json!({"transaction_id": "t2", "method": "card"});
    let again = stopped.patiently("cart.c1.lock", again).await;
    assert_eq!(again.status, 200, "{:?}", again.body());
    let next = again.body()["data"]["token"].as_i64().unwrap();
    assert!(next > token);
    let (fleet, producer, late) = stopped.resume().await;
    assert_eq!((late.status, late.code().as_str()), (409, "stale_token"));
    let ended: i64 = sqlx::query_scalar(
        "select count(*) from brigade.cart_lock_history
         where action = 'released' or action = 'expired' and token = $1",
    )
    .bind(token)
    .fetch_one(&fleet.sql)
    .await
    .unwrap();
    assert_eq!(ended, 1, "the first lock ended once, and nobody released the second");
    drop(producer);
    deadlines::until_no_lock_is_held(&fleet).await;
    money::invariants(&fleet).await;
    fleet.finish().await;
}
