//! cart-lock-expiry on real servers; the tests decide in command-handler's place.

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
use brigade_tests::{Town, check, locks::Lock, process::printed, until};
use futures::StreamExt;
use serde_json::{Value, json};
use tokio::task::AbortHandle;

/// Answers `expire_lock`.
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
    /// The first requests get these answers: status, code, retry_after_ms. All others: the lock is
    /// released if the token is still its own and the deadline has passed, else the token is stale.
    async fn start(town: &Town, first: &[(u16, &'static str, Option<u64>)]) -> Self {
        let client = town.connect("command-handler").await;
        let mut requests = client.subscribe("req.>").await.unwrap();
        client.flush().await.unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (log, sql) = (asked.clone(), town.sql.clone());
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

fn verdicts(town: &Town, verdict: &str) -> u64 {
    town.metrics
        .group::<ConsumeMetrics>()
        .verdicts
        .with_label_values(&["cart-lock-expiry", verdict])
        .get()
}

async fn released(town: &Town, lock: &Lock) {
    until("the lock to be released", || async { lock.is_released(town).await.then_some(()) }).await;
}

/// Every timer is acknowledged, and none became a dead letter.
async fn at_rest(town: &Town) {
    until("the timers to be settled", || async { check::all_consumed(town).await.then_some(()) })
        .await;
    assert_eq!(check::dead_letters(town).await.len(), 0);
}

#[tokio::test]
async fn s2_09_a_lock_ends_at_its_deadline() {
    let mut town = Town::empty().await;
    let decider = Decider::start(&town, &[]).await;
    town.run(WorkerName::CartLockExpiry).await;
    let lock = Lock::hold(&town, "ada", "c1", 0.5).await;
    lock.set_timer(&town).await;
    released(&town, &lock).await;
    at_rest(&town).await;
    // Never before the deadline: the lock would not have been released by that.
    assert_eq!((decider.asked()[0].answer, decider.decided()), (200, 1));
    let asked = &decider.asked()[0];
    assert_eq!(asked.subject, "req.t1.cart.c1.expire_lock");
    assert_eq!(asked.payload, json!({"token": lock.token}));
    // The server takes the schedule away, and what has fired stays to be looked at.
    let js = jetstream::new(town.connect("operator").await);
    let timers = js.get_stream("TIMERS").await.unwrap();
    let last = async |subject: String| timers.get_last_raw_message_by_subject(&subject).await;
    assert!(last(lock_timer(&lock.cart, lock.token)).await.is_err());
    assert!(last(lock_due(&lock.cart, lock.token)).await.is_ok());
    town.finish().await;
}

#[tokio::test]
async fn a_stale_timer_asks_nobody() {
    let mut town = Town::empty().await;
    let decider = Decider::start(&town, &[]).await;
    town.run(WorkerName::CartLockExpiry).await;
    let held = Lock::hold(&town, "ada", "c1", 600.0).await;
    let past =
        Lock { expires_at: Timestamp::parse("2026-01-02T03:04:05Z").unwrap(), ..held.clone() };
    let ended = Lock::hold(&town, "bob", "c2", -1.0).await;
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
        lock.set_timer(&town).await;
    }
    until("the timers to be seen", || async { (verdicts(&town, "done") == 4).then_some(()) }).await;
    assert_eq!(decider.asked().len(), 1, "bob's, before his timer");
    assert!(!held.is_released(&town).await);
    at_rest(&town).await;
    town.finish().await;
}

#[tokio::test]
async fn a_crash_between_asking_and_acknowledging_decides_nothing_twice() {
    let mut town = Town::empty().await;
    let decider = Decider::start(&town, &[]).await;
    let armed = town.fail.arm("cart-lock-expiry.after_send");
    town.run(WorkerName::CartLockExpiry).await;
    let lock = Lock::hold(&town, "ada", "c1", 0.1).await;
    lock.set_timer(&town).await;
    armed.reached().await;
    town.take(WorkerName::CartLockExpiry).kill().await;
    town.fail.disarm("cart-lock-expiry.after_send");
    assert_eq!(verdicts(&town, "done"), 0);
    town.run(WorkerName::CartLockExpiry).await;
    at_rest(&town).await;
    assert!(lock.is_released(&town).await);
    assert_eq!(decider.decided(), 1);
    let redelivered =
        town.metrics.group::<ConsumeMetrics>().redelivered.with_label_values(&["cart-lock-expiry"]);
    assert!(redelivered.get() > 0);
    town.finish().await;
}

#[tokio::test]
async fn while_nobody_decides_a_timer_is_kept_and_each_try_is_a_new_command() {
    let mut town = Town::empty().await;
    town.run(WorkerName::CartLockExpiry).await;
    let lock = Lock::hold(&town, "ada", "c1", 0.0).await;
    lock.set_timer(&town).await;
    // More tries than a message has that fails.
    until("many tries", || async { (verdicts(&town, "away") > 6).then_some(()) }).await;
    let answers =
        [(503, "unavailable", None), (503, "busy", Some(500)), (409, "not_due", Some(20))];
    let decider = Decider::start(&town, &answers).await;
    released(&town, &lock).await;
    at_rest(&town).await;
    let asked = decider.asked();
    let ids: HashSet<_> = asked.iter().map(|asked| &asked.command_id).collect();
    assert!(ids.len() == asked.len() && asked.len() > answers.len(), "{asked:?}");
    assert_eq!(decider.decided(), 1);
    town.finish().await;
}

#[tokio::test]
async fn while_postgres_is_away_a_timer_is_kept() {
    let mut town = Town::empty_with_own_postgres().await;
    let decider = Decider::start(&town, &[]).await;
    town.run(WorkerName::CartLockExpiry).await;
    let lock = Lock::hold(&town, "ada", "c1", 1.0).await;
    town.postgres.as_mut().unwrap().stop().await;
    lock.set_timer(&town).await;
    until("many tries", || async { (verdicts(&town, "away") > 6).then_some(()) }).await;
    town.postgres.as_mut().unwrap().restart().await.unwrap();
    released(&town, &lock).await;
    at_rest(&town).await;
    assert_eq!(decider.decided(), 1);
}

#[tokio::test]
async fn a_lock_whose_timer_is_lost_ends_all_the_same() {
    let mut town = Town::empty().await;
    let decider = Decider::start(&town, &[]).await;
    for _ in 0..2 {
        town.run(WorkerName::CartLockExpiry).await;
    }
    // More than one look takes.
    let mut locks = Vec::new();
    for n in 0..300 {
        locks.push(Lock::hold(&town, &format!("o{n}"), &format!("c{n}"), 0.2).await);
    }
    let live = Lock::hold(&town, "live", "c-live", 600.0).await;
    for lock in &locks {
        released(&town, lock).await;
    }
    assert!(!live.is_released(&town).await);
    // One whose answer came too late is not counted.
    until("all to be counted", || async {
        let late =
            town.metrics.group::<ExpiryMetrics>().lock_expiries.with_label_values(&["away"]).get();
        (town.metrics.group::<ExpiryMetrics>().locks_overdue.get() + late >= 300).then_some(())
    })
    .await;
    assert!(town.metrics.group::<ExpiryMetrics>().locks_overdue.get() <= 300);
    assert_eq!(decider.decided(), 300);
    town.finish().await;
}

#[tokio::test]
async fn after_a_restart_of_everything_no_lease_of_the_dead_is_waited_for() {
    let mut town = Town::empty().await;
    let decider = Decider::start(&town, &[(503, "unavailable", None)]).await;
    let lock = Lock::hold(&town, "ada", "c1", -60.0).await;
    sqlx::query(
        "insert into brigade.leases values ('cart-lock-expiry.sweep', 'the dead', 'infinity')",
    )
    .execute(&town.sql)
    .await
    .unwrap();
    town.run(WorkerName::CartLockExpiry).await;
    decider.until_decided(1).await;
    assert!(lock.is_released(&town).await);
    town.finish().await;
}

#[tokio::test]
async fn s2_12_the_command_line_shows_locks_and_their_history() {
    let town = Town::empty().await;
    Lock::hold(&town, "ada", "c-live", 600.0).await;
    Lock::hold(&town, "bob", "c-overdue", -1.0).await;
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
    .execute(&town.sql)
    .await
    .unwrap();
    // By what each row has in common, whatever libtest prints around it.
    let rows = |text: &str, with: &str| -> Vec<String> {
        let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
        text.lines().map(words).filter(|line| line.contains(with)).collect()
    };
    let all = rows(&printed(&town, "locks ls").await, " card ");
    let owners: Vec<_> = all.iter().map(|row| row.split(' ').nth(1).unwrap()).collect();
    assert_eq!((owners.len(), owners[0]), (3, "bob"), "the most urgent first: {all:?}");
    assert!(all[0].starts_with("t1 bob c-overdue card ") && all[0].ends_with(" [overdue]"));
    let theirs = rows(&printed(&town, "locks ls --tenant t2").await, " card ");
    assert!(theirs.len() == 1 && theirs[0].starts_with("t2 cleo c-other card 99 "), "{theirs:?}");
    assert!(!theirs[0].contains("overdue"));

    let history = rows(&printed(&town, "locks history t1 ada").await, " card ");
    assert!(history[0].contains(" refused c1 - card - cart_empty"), "{history:?}");
    assert_eq!(history[1], "2026-01-02T03:04:05.000Z acquired c1 1 card till -");
    let newest = rows(&printed(&town, "locks history t1 ada --limit 1").await, " card ");
    assert_eq!(newest, history[..1]);
}
