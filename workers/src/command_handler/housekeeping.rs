//! What is forgotten in time: decided commands in the stream, old outcomes in the inbox, failed
//! logins that do not count any more.
//!
//! One command-handler does it, by a lease. Nothing is lost by doing it late.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use async_nats::jetstream::response::Response;
use brigade_contracts::WorkerName;
use serde_json::{Value, json};
use tokio::time::{MissedTickBehavior, interval};

use crate::{
    domain::user::WINDOW,
    runtime::{Context, Nats},
    store::{Lease, lease, postgres::bounded},
};

const LEASE: &str = "command-handler.housekeeping";
const STREAM: &str = "COMMANDS";
/// How often it is looked what can go.
const EVERY: Duration = Duration::from_secs(60);
/// Decided commands stay this long, for people who look into the stream.
const INSPECTION: Duration = Duration::from_secs(60 * 60);
/// Outcomes are kept this long, in days: so long a Command-Id is known.
const OUTCOME_DAYS: i32 = 30;
/// Outcomes deleted in one go, so that no transaction is long.
const AT_ONCE: i64 = 1000;

/// Does the housekeeping, under the lease, until the drain.
pub async fn keep(cx: Context) {
    let mut tick = interval(lease::RENEW);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut decided = Decided::default();
    let mut next = Instant::now();
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            () = cx.drain.cancelled() => return,
        }
        let mine = Lease::take(&cx.postgres, LEASE, &cx.instance).await.unwrap_or(false);
        if !mine || Instant::now() < next {
            continue;
        }
        next = Instant::now() + EVERY;
        let purged =
            purge(&cx.nats, |consumer, floor| decided.note(Instant::now(), consumer, floor));
        let purged = purged.await;
        if let Err(error) = purged {
            tracing::warn!(worker = %cx.worker, error = format!("{error:#}"), "cannot purge {STREAM}");
        }
        if let Err(error) = forget_outcomes(&cx, OUTCOME_DAYS).await {
            tracing::warn!(worker = %cx.worker, %error, "cannot delete old outcomes");
        }
        if let Err(error) = forget_failures(&cx).await {
            tracing::warn!(worker = %cx.worker, %error, "cannot delete old failures of logins");
        }
    }
}

/// Up to where the stream was decided, at times not longer ago than needed.
#[derive(Default)]
struct Decided {
    /// When the consumer was made: with another stream it is another one, and sequences begin
    /// anew.
    consumer: String,
    floors: VecDeque<(Instant, u64)>,
}

impl Decided {
    /// Notes a floor, and returns the one that has stood for the time of inspection.
    fn note(&mut self, now: Instant, consumer: &str, floor: u64) -> Option<u64> {
        if self.consumer != consumer {
            *self = Self { consumer: consumer.to_owned(), ..Self::default() };
        }
        self.floors.push_back((now, floor));
        let mut old = None;
        while self.floors.front().is_some_and(|(at, _)| now.duration_since(*at) >= INSPECTION) {
            old = self.floors.pop_front().map(|(_, floor)| floor);
        }
        old
    }
}

/// Purges the stream up to where `choose` says, given the consumer and its acknowledged floor: everything up to that
/// is decided or dead.
///
/// # Errors
/// Where the stream cannot be asked or purged.
pub async fn purge(
    nats: &Nats,
    choose: impl FnOnce(&str, u64) -> Option<u64>,
) -> anyhow::Result<()> {
    let subject = format!("CONSUMER.INFO.{STREAM}.{}", WorkerName::CommandHandler);
    let info = ask(nats, subject, json!({})).await?;
    let floor = info["ack_floor"]["stream_seq"].as_u64().context("no floor")?;
    let consumer = info["created"].as_str().context("no time of creation")?;
    if let Some(floor) = choose(consumer, floor) {
        // The request names the first sequence that stays.
        ask(nats, format!("STREAM.PURGE.{STREAM}"), json!({ "seq": floor + 1 })).await?;
    }
    Ok(())
}

async fn ask(nats: &Nats, subject: String, request: Value) -> anyhow::Result<Value> {
    match nats.jetstream.request(subject, &request).await? {
        Response::Ok(value) => Ok(value),
        Response::Err { error } => Err(error.into()),
    }
}

/// Deletes outcomes older than this many days, in pieces.
///
/// # Errors
/// Those of Postgres.
async fn forget_outcomes(cx: &Context, days: i32) -> sqlx::Result<()> {
    loop {
        let deleted = bounded(&cx.postgres, async |connection| {
            sqlx::query_file!("src/command_handler/forget_outcomes.sql", days, AT_ONCE)
                .execute(&mut **connection)
                .await
        });
        let deleted = deleted.await?.rows_affected();
        if deleted > 0 {
            tracing::info!(worker = %cx.worker, deleted, "old outcomes deleted");
        }
        if deleted < AT_ONCE.cast_unsigned() || cx.drain.is_cancelled() {
            return Ok(());
        }
    }
}

/// Deletes the failed logins that do not count any more.
async fn forget_failures(cx: &Context) -> sqlx::Result<()> {
    bounded(&cx.postgres, async |connection| {
        sqlx::query!(
            "delete from brigade.login_failures
             where at < statement_timestamp() - make_interval(secs => $1)",
            WINDOW.as_secs_f64(),
        )
        .execute(&mut **connection)
        .await
    })
    .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::testing::Database;

    #[tokio::test]
    async fn old_outcomes_are_found_without_reading_the_young_ones() -> anyhow::Result<()> {
        let database = Database::start().await?;
        let explain = concat!("explain ", include_str!("forget_outcomes.sql"));
        let plan: Vec<String> = sqlx::query_scalar(explain)
            .bind(OUTCOME_DAYS)
            .bind(AT_ONCE)
            .fetch_all(&database.sql)
            .await?;
        let plan = plan.join("\n");
        assert!(plan.contains("command_inbox_decided_at_idx"), "{plan}");
        Ok(())
    }

    #[test]
    fn what_was_decided_an_hour_ago_goes() {
        let start = Instant::now();
        let minute = |n: u64| start + Duration::from_secs(60 * n);
        let mut decided = Decided::default();
        let purged: Vec<_> =
            (0..=62).filter_map(|n| decided.note(minute(n), "a", 10 * n)).collect();
        assert_eq!(purged, [0, 10, 20]);
        assert_eq!(decided.floors.len(), 60);
        // A new stream: what is known of the old one says nothing about it.
        assert_eq!(decided.note(minute(63), "b", 5), None);
        assert_eq!(decided.floors.len(), 1);
    }
}
