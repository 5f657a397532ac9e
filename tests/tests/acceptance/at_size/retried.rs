//! More commands that cannot be decided yet than their consumer may have pending.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use brigade::workers::command_handler::CommandHandlerMetrics;
use brigade_tests::{Producer, TestFleet, check};
use futures::StreamExt;
use serde_json::json;
use tokio::time::interval;

use super::{
    Nice, beside, client, decided, figure, open, quiet, second, size, store, until_count, verdicts,
};

const COMMANDS: usize = 68_000;
/// The aggregates, each of which is locked by somebody in psql.
const CARTS: usize = 1000;

/// Commands of `t2` on the durable door, one after the other, for so long.
async fn durable(fleet: &Arc<TestFleet>, name: &'static str, long: Duration) {
    let measured = client(fleet, Nice::Measured, move |fleet| async move {
        let t2 = second(&fleet).await;
        durable_of(&t2, name, long).await
    });
    measured.await;
}

async fn durable_of(t2: &Producer, name: &str, long: Duration) {
    let (began, mut times) = (Instant::now(), Vec::new());
    while began.elapsed() < long {
        let (id, sent) = (format!("{name}{}", times.len()), Instant::now());
        let outcome = t2.publish(&id, &format!("cart.{id}.open"), open(&id)).await;
        assert_eq!(outcome["status"], 201, "{outcome}");
        times.push(sent.elapsed());
    }
    times.sort();
    let (p50, p99) = (times[times.len() / 2], times[(times.len() - 1) * 99 / 100]);
    let count = times.len();
    figure(&format!("{name}: {count} durable commands of t2, p50 {p50:.1?}, p99 {p99:.1?}"));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes; run by hand: 68,000 commands on locked rows"]
async fn s5_05_commands_on_locked_rows_beyond_what_may_be_pending_hold_up_no_other() {
    let count = size("BRIGADE_TEST_RETRIED", COMMANDS);
    let fleet = Arc::new(TestFleet::start().await);
    let t1 = fleet.producer().await;
    let opened = futures::stream::iter(0..CARTS).map(|n| {
        let t1 = t1.clone();
        async move {
            let open = json!({"kind": "team", "owner": format!("owner{n}"), "currency": "EUR"});
            t1.done(&format!("cart.c{n}.open"), open).await;
        }
    });
    opened.buffer_unordered(50).collect::<()>().await;
    let quiet = quiet(&fleet).await;
    let long = Duration::from_secs(10);
    durable(&fleet, "quiet-durable", long).await;
    let mut by_hand = fleet.sql.begin().await.unwrap();
    sqlx::raw_sql("select from brigade.carts where tenant = 't1' for update")
        .execute(&mut *by_hand)
        .await
        .unwrap();
    let joins = (0..count).map(move |n| {
        let (id, what) = (format!("k{n}"), format!("cart.c{}.join", n % CARTS));
        (id, what, json!({"user": format!("u{}", n / CARTS)}).to_string())
    });
    let began = Instant::now();
    let (times, ()) = beside(&fleet, "stored", async {
        tokio::join!(store(&fleet, 64, joins), durable(&fleet, "durable-while-stored", long));
    })
    .await;
    figure(&format!("{count} commands were stored in {:.0?}", began.elapsed()));
    times.print("while they are stored");
    times.compare(&quiet);
    let minute = Duration::from_secs(size("BRIGADE_TEST_LOCKED_SECONDS", 60) as u64);
    let (times, _) =
        beside(&fleet, "locked", durable(&fleet, "durable-while-locked", minute)).await;
    times.print("while they are retried");
    times.compare(&quiet);
    let held = verdicts(&fleet, "held");
    let taken = fleet.metrics.group::<CommandHandlerMetrics>().held_up.get();
    figure(&format!("{held} times held, {taken} aggregates held up"));
    assert_eq!(decided(&fleet, 200).await, 0, "all carts are locked");
    by_hand.rollback().await.unwrap();

    let began = Instant::now();
    let (times, ()) = beside(&fleet, "unlocked", async {
        let mut tick = interval(Duration::from_secs(2));
        until_count("decisions", (count + CARTS) as u64, async || {
            tick.tick().await;
            let all = "select count(*) from brigade.command_inbox where tenant = 't1'";
            let all: i64 = sqlx::query_scalar(all).fetch_one(&fleet.sql).await.unwrap();
            all.cast_unsigned()
        })
        .await;
    })
    .await;
    figure(&format!("all were decided {:.0?} after the rows were free", began.elapsed()));
    times.print("while they are decided");
    times.compare(&quiet);
    assert_eq!(decided(&fleet, 200).await, count as i64);
    let joined: i64 = sqlx::query_scalar(
        "select count(*) from brigade.events where tenant = 't1' and type = 'member_joined'",
    )
    .fetch_one(&fleet.sql)
    .await
    .unwrap();
    assert_eq!(joined, count as i64, "each is done once");
    assert_eq!((verdicts(&fleet, "dead"), check::dead_letters(&fleet).await.len()), (0, 0));
    let mut tick = interval(Duration::from_millis(200));
    until_count("the shared consumer", 1, async || {
        tick.tick().await;
        u64::from(check::all_consumed(&fleet).await)
    })
    .await;
    figure(&format!("all is acknowledged {:.0?} after the rows were free", began.elapsed()));
}
