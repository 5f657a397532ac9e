//! Healing and the audit of a million aggregates.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use async_nats::jetstream;
use brigade_contracts::WorkerName;
use brigade_tests::{TestFleet, check, process::Process};
use sqlx::AssertSqlSafe;
use tokio::time::interval;

use super::{beside, figure, quiet, size};
use crate::healing::{at_scale::copy_carts, until_healed};

const AGGREGATES: usize = 1_000_000;
/// The memory that a verifier may take at most, in KiB: as much as for a thousand aggregates, and
/// some room.
const MEMORY: u64 = 128 * 1024;

/// Waits until a number in SQL arrives, however long it takes; it only must not stand still.
async fn until_sql(fleet: &TestFleet, what: &str, count: i64, number: &str) {
    let (began, mut printed) = (Instant::now(), Instant::now());
    let (mut reached, mut moved) = (-1, Instant::now());
    let mut tick = interval(Duration::from_millis(500));
    while reached < count {
        tick.tick().await;
        let number = sqlx::query_scalar::<_, i64>(AssertSqlSafe(number.to_owned()));
        let now = number.fetch_one(&fleet.sql).await.unwrap();
        if now != reached {
            (reached, moved) = (now, Instant::now());
        }
        if printed.elapsed() > Duration::from_secs(30) {
            figure(&format!("{what}: {reached} after {:.0?}", began.elapsed()));
            printed = Instant::now();
        }
        assert!(moved.elapsed() < Duration::from_secs(180), "{what} stopped at {reached}");
    }
    figure(&format!("{what}: {reached} after {:.1?}", began.elapsed()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[ignore = "takes an hour; run by hand: a million aggregates"]
async fn a_million_aggregates_are_healed_and_audited() {
    let aggregates = size("BRIGADE_TEST_AGGREGATES", AGGREGATES);
    let fleet = Arc::new(TestFleet::start_without(WorkerName::CacheVerifier).await);
    fleet.producer().await.team_cart("c", "ada", &["bob"]).await;
    fleet.until_idle().await;
    let first = Process::start(&fleet, &[WorkerName::CacheVerifier], None).await;
    until_healed(&fleet).await;
    let empty = quiet(&fleet).await;
    let began = Instant::now();
    copy_carts(&fleet, u32::try_from(aggregates - 1).unwrap()).await;
    figure(&format!("{aggregates} carts in SQL after {:.0?}", began.elapsed()));
    let js = jetstream::new(fleet.connect("operator").await);
    for bucket in ["KV_versions", "KV_views"] {
        js.delete_stream(bucket).await.unwrap();
    }
    // Killed once in each third.
    let healed = async {
        let mut verifier = first;
        for third in 1..=2 {
            let walked = (aggregates * third / 3) as i64;
            let position = "select coalesce(sum(walked), 0)::bigint from brigade.heals";
            until_sql(&fleet, "walked", walked, position).await;
            figure(&format!("memory of the verifier: {:?} KiB now, at most", verifier.memory()));
            assert!(verifier.memory().1 < MEMORY);
            verifier.kill().await;
            verifier = Process::start(&fleet, &[WorkerName::CacheVerifier], None).await;
        }
        let finished = "select count(*) from brigade.heals where finished_at is not null";
        until_sql(&fleet, "heals finished", 1, finished).await;
        verifier
    };
    let (times, verifier) = beside(&fleet, "healing", healed).await;
    times.print("beside the heal");
    times.compare(&empty);
    let stored: Vec<(i64, i64, i64, f64)> = sqlx::query_as(
        "select walked, aggregates, events, extract(epoch from finished_at - planned_at)::float8
         from brigade.heals order by id",
    )
    .fetch_all(&fleet.sql)
    .await
    .unwrap();
    figure(&format!("heals (walked, aggregates, events, seconds): {stored:?}"));
    let carts = aggregates as i64;
    assert!(stored[0].1 >= carts && stored[0].1 <= carts + 100, "each once");
    fleet.until_idle().await;
    for (bucket, keys) in [("KV_versions", aggregates), ("KV_views", 2 * aggregates)] {
        let found = js.get_stream(bucket).await.unwrap().cached_info().state.messages;
        assert!(found >= keys as u64, "{bucket}: {found}");
    }
    assert_eq!(check::dead_letters(&fleet).await.len(), 0);

    // The round that is under way, and a whole one after it.
    let rounds = "select coalesce(extract(epoch from last_finished_at - last_began_at), -1)::bigint
                  from brigade.audit_rounds where last_began_at > $$now$$";
    let now: time::OffsetDateTime =
        sqlx::query_scalar("select clock_timestamp()").fetch_one(&fleet.sql).await.unwrap();
    let rounds = rounds.replace("$$now$$", &format!("'{now}'::timestamptz"));
    let began = Instant::now();
    loop {
        tokio::time::sleep(Duration::from_secs(5)).await;
        let seconds = sqlx::query_scalar::<_, i64>(AssertSqlSafe(rounds.clone()));
        if let Some(seconds) = seconds.fetch_optional(&fleet.sql).await.unwrap() {
            figure(&format!("a whole round of the audit took {seconds} s"));
            break;
        }
        assert!(began.elapsed() < Duration::from_secs(3 * 3600), "no round ends");
    }
    figure(&format!("memory of the verifier: {:?} KiB now, at most", verifier.memory()));
    assert!(verifier.memory().1 < MEMORY);
}
