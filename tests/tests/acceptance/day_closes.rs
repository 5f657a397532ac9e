//! The day close of random payments, while those who decide them are killed again and again.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use brigade_contracts::WorkerName;
use brigade_tests::{
    Producer, TestFleet, money, paying::result, process::Process, producer::placed, until,
};
use futures::{StreamExt, stream};
use rand::{Rng, SeedableRng, rngs::StdRng};
use serde_json::{Value, json};

/// Captured, applied, refunded, owed and settled, by method and currency.
pub type Sums = BTreeMap<(String, String), [i64; 5]>;

/// One payment: its method, what is sent for it, and what then becomes of the money.
struct Story {
    method: &'static str,
    steps: Vec<(&'static str, Value)>,
    currency: &'static str,
    expected: [i64; 5],
}

/// What is due of each order.
const DUE: i64 = 1000;

impl Story {
    fn new(random: &mut StdRng) -> Self {
        let method = ["card", "wallet", "qr"][random.random_range(0..3)];
        let more: i64 = random.random_range(2..700);
        let part = random.random_range(1..more);
        let (steps, expected) = match random.random_range(0..10) {
            0 => surplus(more, part),
            1 => late(more, part),
            2 => unknown(more),
            3 => captured_again(more),
            4 => told_of_refunds(part),
            5 => (vec![captured("g1", 1)], [1, 1, 0, 0, 0]),
            6 => (vec![gateway("failed", "g1", 0)], [0; 5]),
            _ => (vec![captured("g1", DUE)], [DUE, DUE, 0, 0, 0]),
        };
        if random.random_ratio(1, 12) {
            let (mut dollars, amount) = (captured("g1", more), more);
            dollars.1["currency"] = json!("USD");
            let (steps, expected) =
                (vec![dollars, refund(part)], [amount, 0, part, amount - part, 0]);
            return Self { method, steps, currency: "USD", expected };
        }
        Self { method, steps, currency: "EUR", expected }
    }
}

type Told = (Vec<(&'static str, Value)>, [i64; 5]);

fn gateway(kind: &str, transaction: &str, amount: i64) -> (&'static str, Value) {
    ("record_result", result(kind, transaction, amount))
}

fn captured(transaction: &str, amount: i64) -> (&'static str, Value) {
    gateway("captured", transaction, amount)
}

fn refund(amount: i64) -> (&'static str, Value) {
    ("refund", json!({"amount": amount, "reason": "r"}))
}

fn settle(settlement: Value) -> (&'static str, Value) {
    ("settle", json!({"settlement": settlement, "reason": "r"}))
}

/// More came in than was due; a part goes back, and half of the time more than that.
fn surplus(more: i64, part: i64) -> Told {
    let all = DUE + more;
    if part % 2 == 0 {
        let steps = vec![captured("g1", all), refund(part)];
        return (steps, [all, DUE, part, more - part, 0]);
    }
    let back = more + part;
    let steps = vec![captured("g1", all), refund(part), refund(back - part)];
    (steps, [all, DUE - part, back, 0, 0])
}

/// The money comes when nobody waits for it any more; a person pays it back by hand.
fn late(more: i64, part: i64) -> Told {
    let task = settle(json!({"refund_task": "1"}));
    let steps = vec![gateway("failed", "g1", 0), captured("g1", more), refund(part), task];
    (steps, [more, 0, part, 0, more - part])
}

fn unknown(more: i64) -> Told {
    let unknown = gateway("unknown", "g1", 0);
    if more % 2 == 0 {
        return (vec![unknown, settle(json!("failed"))], [0; 5]);
    }
    let money = json!({"transaction_id": "g1", "amount": DUE, "currency": "EUR"});
    (vec![unknown, settle(json!({"captured": money}))], [DUE, DUE, 0, 0, 0])
}

fn captured_again(more: i64) -> Told {
    let steps = vec![captured("g1", DUE), captured("g2", more), captured("g1", DUE)];
    (steps, [DUE + more, DUE, 0, more, 0])
}

fn told_of_refunds(part: i64) -> Told {
    let told = |amount| gateway("refunded", "g1", amount);
    let steps = vec![captured("g1", DUE), told(part), told(part), told(part / 2)];
    (steps, [DUE, DUE - part, part, 0, 0])
}

/// Plays a payment to its end, whoever dies meanwhile.
async fn play(producer: &Producer, n: usize, story: &Story) {
    let done = async |verb: &str, at: usize, what: String, payload: Value| {
        let reply = producer.send_until_decided(&format!("{n}-{at}-{verb}"), &what, payload).await;
        assert!(reply.status < 300, "{what}: {}", reply.body());
    };
    done("place", 0, format!("order.o{n}.place"), placed(&[("Soup", DUE, 1)])).await;
    let pay = json!({"target": {"order": format!("o{n}")}, "method": story.method});
    done("initiate", 0, format!("payment.p{n}.initiate"), pay).await;
    for (at, (verb, payload)) in story.steps.iter().enumerate() {
        let mut payload = payload.clone();
        if payload["settlement"]["refund_task"].is_string() {
            payload["settlement"]["refund_task"] = json!(format!("p{n}.1"));
        }
        done(verb, at + 1, format!("payment.p{n}.{verb}"), payload).await;
    }
}

/// Keeps a command-handler running, in a process of its own that is killed each time that so many
/// payments more are over, until all are.
async fn kill_handlers(fleet: &TestFleet, over: &AtomicUsize, count: usize, each: usize) -> usize {
    let mut kills = 0;
    loop {
        let handler = Process::start(fleet, &[WorkerName::CommandHandler], None).await;
        let next = over.load(Ordering::SeqCst) + each;
        if next >= count {
            until_over(over, count).await;
            handler.kill().await;
            return kills + 1;
        }
        until_over(over, next).await;
        handler.kill().await;
        kills += 1;
    }
}

async fn until_over(over: &AtomicUsize, count: usize) {
    until("payments", || async { (over.load(Ordering::SeqCst) >= count).then_some(()) }).await;
}

/// Plays so many random payments, with a kill after so many of them, and checks the day close. Returns
/// how long the close took.
pub async fn play_all(count: usize, each: usize, at_once: usize) -> std::time::Duration {
    let mut fleet = TestFleet::start().await;
    fleet.stop_one(WorkerName::CommandHandler).await;
    let producer = fleet.producer().await;
    let mut random = StdRng::seed_from_u64(7);
    let stories: Vec<_> = (0..count).map(|_| Story::new(&mut random)).collect();
    let over = Arc::new(AtomicUsize::new(0));
    let playing = stream::iter(stories.iter().enumerate()).map(|(n, story)| {
        let (producer, over) = (&producer, &over);
        async move {
            play(producer, n, story).await;
            over.fetch_add(1, Ordering::SeqCst);
        }
    });
    let playing = playing.buffer_unordered(at_once).collect::<()>();
    let (kills, ()) = tokio::join!(kill_handlers(&fleet, &over, count, each), playing);
    assert!(kills > 2, "{kills} kills");
    fleet.run(WorkerName::CommandHandler).await;
    fleet.until_idle().await;

    let mut expected = Sums::new();
    for story in stories.iter().filter(|story| story.expected != [0; 5]) {
        let key = (story.method.to_owned(), story.currency.to_owned());
        let sums = expected.entry(key).or_default();
        sums.iter_mut().zip(story.expected).for_each(|(sum, amount)| *sum += amount);
    }
    let began = Instant::now();
    // From yesterday on: a day may end meanwhile.
    let days: Vec<String> = sqlx::query_scalar(
        "select to_char(now() at time zone 'UTC' + days * interval '1 day',
                        'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"')
         from unnest(array[-1, 1]) days order by days",
    )
    .fetch_all(&fleet.sql)
    .await
    .unwrap();
    let headers = [("From", days[0].as_str()), ("To", days[1].as_str())];
    let close = producer.request("q.t1.day_close", &headers, b"").await.expect("an answer");
    let took = began.elapsed();
    assert_eq!(close.status, 200, "{}", close.body());
    assert_eq!(sums_of(&close.body()), expected);
    assert_eq!(close.body()["balanced"], true);
    money::invariants(&fleet).await;
    fleet.finish().await;
    took
}

fn sums_of(close: &Value) -> Sums {
    let lines = close["lines"].as_array().expect("lines").iter();
    let sums = lines.map(|line| {
        assert_eq!(line["balance"], 0, "{line}");
        let text = |name: &str| line[name].as_str().expect("text").to_owned();
        let names = ["captured", "applied", "refunded", "owed", "settled"];
        let amounts = names.map(|name| line[name].as_i64().expect("an amount"));
        ((text("method"), text("currency")), amounts)
    });
    sums.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn s7_09_the_day_close_of_random_payments_under_kills_balances() {
    play_all(200, 50, 16).await;
}
