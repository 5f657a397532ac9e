//! cart-lock-expiry on real servers, with a double of command-handler.

use brigade::workers::cart_lock_expiry::ExpiryMetrics;
use std::{
    collections::{HashSet, VecDeque},
    sync::{Arc, Mutex},
};

use async_nats::jetstream;
use brigade::runtime::ConsumeMetrics;
use brigade_contracts::{
    Timestamp, WorkerName,
    subject::{lock_due, lock_timer},
};
use brigade_tests::{TestFleet, check, locks::Lock, process::printed, until};
use futures::StreamExt;
use serde_json::{Value, json};
use tokio::task::AbortHandle;

/// Decides `expire_lock` in command-handler's place.
struct Decider {
    asked: Arc<Mutex<Vec<Asked>>>,
    task: AbortHandle,
}

#[derive(Clone, Debug)]
struct Asked {
    subject: String,
    command_id: String,
    payload: Value,
    answer: u16,
}

impl Decider {
    /// The answers to the first requests: status, code, retry_after_ms. At all others the lock is
    /// released if the token is still its own and the deadline has passed, else the token is stale.
    async fn start(fleet: &TestFleet, first: &[(u16, &'static str, Option<u64>)]) -> Self {
        let client = fleet.connect("command-handler").await;
        let mut requests = client.subscribe("req.>").await.unwrap();
        client.flush().await.unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (log, sql) = (asked.clone(), fleet.sql.clone());
        let mut first: VecDeque<_> = first.iter().copied().collect();
        let task = tokio::spawn(async move {
            while let Some(request) = requests.next().await {
                let payload: Value = serde_json::from_slice(&request.payload).unwrap();
                let subject = request.subject.to_string();
                let cart = subject.split('.').nth(3).unwrap();
                let answer = match first.pop_front() {
                    Some(answer) => answer,
                    None if release(&sql, cart, &payload).await => (200, "ok", None),
                    None => (409, "stale_token", None),
                };
                let (status, code, retry_after_ms) = answer;
                let command_id = request.headers.unwrap().get("Command-Id").unwrap().to_string();
                let outcome = json!({
                    "command_id": command_id, "status": status, "code": code, "message": "",
                    "aggregate": "cart", "id": cart, "version": 1, "etag": null, "effects": [],
                    "data": {}, "retry_after_ms": retry_after_ms,
                });
                log.lock().unwrap().push(Asked { subject, command_id, payload, answer: status });
                client.publish(request.reply.unwrap(), outcome.to_string().into()).await.unwrap();
            }
        });
        Self { asked, task: task.abort_handle() }
    }

    fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    async fn until_decided(&self, count: usize) {
        until("decisions", || async { (self.decided() == count).then_some(()) }).await;
    }

    fn decided(&self) -> usize {
        self.asked().iter().filter(|asked| asked.answer == 200).count()
    }
}

impl Drop for Decider {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn release(sql: &sqlx::PgPool, cart: &str, payload: &Value) -> bool {
    sqlx::query(
        "update brigade.cart_locks set state = 'released', version = version + 1
         where tenant = 't1' and cart_id = $1 and token = $2 and state = 'held'
           and expires_at <= clock_timestamp()",
    )
    .bind(cart)
    .bind(payload["token"].as_i64())
    .execute(sql)
    .await
    .is_ok_and(|done| done.rows_affected() == 1)
}

fn verdicts(fleet: &TestFleet, verdict: &str) -> u64 {
    fleet
        .metrics
        .group::<ConsumeMetrics>()
        .verdicts
        .with_label_values(&["cart-lock-expiry", verdict])
        .get()
}

async fn released(fleet: &TestFleet, lock: &Lock) {
    until("the lock to be released", || async { lock.is_released(fleet).await.then_some(()) })
        .await;
}

/// Every timer is acknowledged, and none became a dead letter.
async fn at_rest(fleet: &TestFleet) {
    until("the timers to be settled", || async { check::all_consumed(fleet).await.then_some(()) })
        .await;
    assert_eq!(check::dead_letters(fleet).await.len(), 0);
}

#[tokio::test]
async fn s2_09_a_lock_ends_at_its_deadline() {
    let mut fleet = TestFleet::empty().await;
    let decider = Decider::start(&fleet, &[]).await;
    fleet.run(WorkerName::CartLockExpiry).await;
    let lock = Lock::hold(&fleet, "ada", "c1", 0.5).await;
    lock.set_timer(&fleet).await;
    released(&fleet, &lock).await;
    at_rest(&fleet).await;
    // Never before the deadline: the lock would not have been released by that.
    assert_eq!((decider.asked()[0].answer, decider.decided()), (200, 1));
    let asked = &decider.asked()[0];
    assert_eq!(asked.subject, "req.t1.cart.c1.expire_lock");
    assert_eq!(asked.payload, json!({"token": lock.token}));
    // The server takes the schedule away, and what has fired stays to be looked at.
    let js = jetstream::new(fleet.connect("operator").await);
    let timers = js.get_stream("TIMERS").await.unwrap();
    let last = async |subject: String| timers.get_last_raw_message_by_subject(&subject).await;
    assert!(last(lock_timer(&lock.cart, lock.token)).await.is_err());
    assert!(last(lock_due(&lock.cart, lock.token)).await.is_ok());
    fleet.finish().await;
}

#[tokio::test]
async fn a_stale_timer_asks_nobody() {
    let mut fleet = TestFleet::empty().await;
    let decider = Decider::start(&fleet, &[]).await;
    fleet.run(WorkerName::CartLockExpiry).await;
    let held = Lock::hold(&fleet, "ada", "c1", 600.0).await;
    let past =
        Lock { expires_at: Timestamp::parse("2026-01-02T03:04:05Z").unwrap(), ..held.clone() };
    let ended = Lock::hold(&fleet, "bob", "c2", -1.0).await;
    decider.until_decided(1).await;
    let stale = [
        // The deadline moved.
        past.clone(),
        // Taken again since, under a later token.
        Lock { token: held.token - 1, ..past.clone() },
        // It was claimed by a user: the session has no lock any more.
        Lock { owner: "session".parse().unwrap(), token: held.token + 100, ..past },
        ended,
    ];
    for lock in &stale {
        lock.set_timer(&fleet).await;
    }
    until("the timers to be seen", || async { (verdicts(&fleet, "done") == 4).then_some(()) })
        .await;
    assert_eq!(decider.asked().len(), 1, "bob's, before his timer");
    assert!(!held.is_released(&fleet).await);
    at_rest(&fleet).await;
    fleet.finish().await;
}

#[tokio::test]
async fn a_crash_between_asking_and_acknowledging_decides_nothing_twice() {
    let mut fleet = TestFleet::empty().await;
    let decider = Decider::start(&fleet, &[]).await;
    let armed = fleet.fail.arm("cart-lock-expiry.after_send");
    fleet.run(WorkerName::CartLockExpiry).await;
    let lock = Lock::hold(&fleet, "ada", "c1", 0.1).await;
    lock.set_timer(&fleet).await;
    armed.reached().await;
    fleet.take(WorkerName::CartLockExpiry).kill().await;
    fleet.fail.disarm("cart-lock-expiry.after_send");
    assert_eq!(verdicts(&fleet, "done"), 0);
    fleet.run(WorkerName::CartLockExpiry).await;
    at_rest(&fleet).await;
    assert!(lock.is_released(&fleet).await);
    assert_eq!(decider.decided(), 1);
    let redelivered = fleet
        .metrics
        .group::<ConsumeMetrics>()
        .redelivered
        .with_label_values(&["cart-lock-expiry"]);
    assert!(redelivered.get() > 0);
    fleet.finish().await;
}

#[tokio::test]
async fn while_nobody_decides_a_timer_is_kept_and_each_try_is_a_new_command() {
    let mut fleet = TestFleet::empty().await;
    fleet.run(WorkerName::CartLockExpiry).await;
    let lock = Lock::hold(&fleet, "ada", "c1", 0.0).await;
    lock.set_timer(&fleet).await;
    // More tries than a message has that fails.
    until("many tries", || async { (verdicts(&fleet, "away") > 6).then_some(()) }).await;
    let answers =
        [(503, "unavailable", None), (503, "busy", Some(500)), (409, "not_due", Some(20))];
    let decider = Decider::start(&fleet, &answers).await;
    released(&fleet, &lock).await;
    at_rest(&fleet).await;
    let asked = decider.asked();
    let ids: HashSet<_> = asked.iter().map(|asked| &asked.command_id).collect();
    assert!(ids.len() == asked.len() && asked.len() > answers.len(), "{asked:?}");
    assert_eq!(decider.decided(), 1);
    fleet.finish().await;
}

#[tokio::test]
async fn while_postgres_is_away_a_timer_is_kept() {
    let mut fleet = TestFleet::empty_with_own_postgres().await;
    let decider = Decider::start(&fleet, &[]).await;
    fleet.run(WorkerName::CartLockExpiry).await;
    let lock = Lock::hold(&fleet, "ada", "c1", 1.0).await;
    fleet.postgres_mut().stop().await;
    lock.set_timer(&fleet).await;
    until("many tries", || async { (verdicts(&fleet, "away") > 6).then_some(()) }).await;
    fleet.postgres_mut().restart().await.unwrap();
    released(&fleet, &lock).await;
    at_rest(&fleet).await;
    assert_eq!(decider.decided(), 1);
}

#[tokio::test]
async fn a_lock_whose_timer_is_lost_ends_all_the_same() {
    let mut fleet = TestFleet::empty().await;
    let decider = Decider::start(&fleet, &[]).await;
    for _ in 0..2 {
        fleet.run(WorkerName::CartLockExpiry).await;
    }
    // More than one look takes.
    let mut locks = Vec::new();
    for n in 0..300 {
        locks.push(Lock::hold(&fleet, &format!("o{n}"), &format!("c{n}"), 0.2).await);
    }
    let live = Lock::hold(&fleet, "live", "c-live", 600.0).await;
    for lock in &locks {
        released(&fleet, lock).await;
    }
    assert!(!live.is_released(&fleet).await);
    // One whose answer came too late is not counted.
    until("all to be counted", || async {
        let late =
            fleet.metrics.group::<ExpiryMetrics>().lock_expiries.with_label_values(&["away"]).get();
        (fleet.metrics.group::<ExpiryMetrics>().locks_overdue.get() + late >= 300).then_some(())
    })
    .await;
    assert!(fleet.metrics.group::<ExpiryMetrics>().locks_overdue.get() <= 300);
    assert_eq!(decider.decided(), 300);
    fleet.finish().await;
}

#[tokio::test]
async fn after_a_restart_of_everything_no_lease_of_the_dead_is_waited_for() {
    let mut fleet = TestFleet::empty().await;
    let decider = Decider::start(&fleet, &[(503, "unavailable", None)]).await;
    let lock = Lock::hold(&fleet, "ada", "c1", -60.0).await;
    sqlx::query(
        "insert into brigade.leases values ('cart-lock-expiry.sweep', 'the dead', 'infinity')",
    )
    .execute(&fleet.sql)
    .await
    .unwrap();
    fleet.run(WorkerName::CartLockExpiry).await;
    decider.until_decided(1).await;
    assert!(lock.is_released(&fleet).await);
    fleet.finish().await;
}

#[tokio::test]
async fn s2_12_the_command_line_shows_locks_and_their_history() {
    let fleet = TestFleet::empty().await;
    Lock::hold(&fleet, "ada", "c-live", 600.0).await;
    Lock::hold(&fleet, "bob", "c-overdue", -1.0).await;
    sqlx::raw_sql(
        "insert into brigade.cart_locks
             (tenant, owner, version, updated_at, state, cart_id, token, method, acquired_at,
              expires_at, fingerprint, amount)
         select 't2', 'cleo', version, updated_at, state, 'c-other', 99, method, acquired_at,
                expires_at, fingerprint, amount
         from brigade.cart_locks where owner = 'ada';
         insert into brigade.cart_lock_history
             (tenant, owner, cart_id, token, action, method, reason, actor, at)
         values ('t1', 'ada', 'c1', 1, 'acquired', 'card', null, 'till', '2026-01-02 03:04:05Z'),
                ('t1', 'ada', 'c1', null, 'refused', 'card', 'cart_empty', null, now()),
                ('t1', 'bob', 'c2', 2, 'acquired', 'card', null, null, now())",
    )
    .execute(&fleet.sql)
    .await
    .unwrap();
    // By what each row has in common, whatever libtest prints around it.
    let rows = |text: &str, with: &str| -> Vec<String> {
        let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
        text.lines().map(words).filter(|line| line.contains(with)).collect()
    };
    let all = rows(&printed(&fleet, "locks ls").await, " card ");
    let owners: Vec<_> = all.iter().map(|row| row.split(' ').nth(1).unwrap()).collect();
    assert_eq!((owners.len(), owners[0]), (3, "bob"), "the most urgent first: {all:?}");
    assert!(all[0].starts_with("t1 bob c-overdue card ") && all[0].ends_with(" [overdue]"));
    let theirs = rows(&printed(&fleet, "locks ls --tenant t2").await, " card ");
    assert!(theirs.len() == 1 && theirs[0].starts_with("t2 cleo c-other card 99 "), "{theirs:?}");
    assert!(!theirs[0].contains("overdue"));

    let history = rows(&printed(&fleet, "locks history t1 ada").await, " card ");
    assert!(history[0].contains(" refused c1 - card - cart_empty"), "{history:?}");
    assert_eq!(history[1], "2026-01-02T03:04:05.000Z acquired c1 1 card till -");
    let newest = rows(&printed(&fleet, "locks history t1 ada --limit 1").await, " card ");
    assert_eq!(newest, history[..1]);
}
