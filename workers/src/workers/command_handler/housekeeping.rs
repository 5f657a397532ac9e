//! What is forgotten in time: decided commands in the stream, old outcomes in the inbox, failed
//! logins that do not count any more, dead letters that were settled, locks of owners long gone,
//! session events that cannot come again.
//!
//! One command-handler does it, by a lease. Nothing is lost by doing it late, but a stream that is
//! full takes no more: decided commands go by age, and sooner when they fill half of it.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use async_nats::jetstream::response::Response;
use brigade_contracts::WorkerName;
use brigade_domain::user::WINDOW;
use serde_json::{Value, json};
use tokio::time::{MissedTickBehavior, interval};

use super::{above_floor, old_locks::OldLocks};
use crate::infra::{
    Context, Lease, Nats,
    health::Duty,
    lease::{self, Fitness},
    postgres::bounded,
};

const LEASE: &str = "command-handler.housekeeping";
pub(super) const STREAM: &str = "COMMANDS";
/// How often it is looked what can go.
const EVERY: Duration = Duration::from_secs(60);
/// Decided commands stay this long, for people who look into the stream, unless it fills.
const INSPECTION: Duration = Duration::from_secs(60 * 60);
/// How often it is looked how full the stream is. The other half of it takes longer to fill.
const LOOK: Duration = Duration::from_secs(1);
/// Outcomes are kept this long, in days: so long a Command-Id is known.
pub const OUTCOME_DAYS: i32 = 30;
/// So long dead letters are kept after something was done with them, in days.
const SETTLED_DAYS: i32 = 30;
/// Session events are known this long, in days: events are kept, and so repeated or healed, for 7.
const ACTIVITY_DAYS: i32 = 30;
/// Pieces of them that are deleted in a round at most; more than a fleet commits in the meantime.
const ACTIVITY_PIECES: usize = 50;
/// Outcomes deleted in one go, so that no transaction is long.
const AT_ONCE: i64 = 1000;

/// Does the housekeeping, under the lease, until the drain.
pub async fn keep(cx: Context) {
    let mut tick = interval(lease::RENEW);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let duty = cx.health.duty("housekeeping");
    let mut fitness = Fitness::default();
    let (mut decided, mut old_locks) = (Decided::default(), OldLocks::default());
    let (mut look, mut next) = (Instant::now(), Instant::now());
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            () = cx.drain.cancelled() => return,
        }
        // Others tell of a Postgres that is away.
        duty.moved();
        let mine = Lease::hold(&cx, LEASE, &fitness).await.unwrap_or(false);
        if !mine || Instant::now() < look {
            continue;
        }
        look = Instant::now() + LOOK;
        if let Err(error) = decided.purge(&cx, &duty).await {
            tracing::warn!(worker = %cx.worker, error = format!("{error:#}"), "cannot purge {STREAM}");
            fitness.fails();
        } else {
            fitness.works();
        }
        if let Err(error) = old_locks.forget(&cx).await {
            tracing::warn!(worker = %cx.worker, %error, "cannot delete old locks");
        }
        if Instant::now() < next {
            continue;
        }
        next = Instant::now() + EVERY;
        if let Err(error) = forget_outcomes(&cx, &duty, OUTCOME_DAYS).await {
            tracing::warn!(worker = %cx.worker, %error, "cannot delete old outcomes");
        }
        if let Err(error) = forget_failures(&cx).await {
            tracing::warn!(worker = %cx.worker, %error, "cannot delete old failures of logins");
        }
        if let Err(error) = forget_settled(&cx, SETTLED_DAYS).await {
            tracing::warn!(worker = %cx.worker, %error, "cannot delete old dead letters");
        }
        if let Err(error) = forget_overflow(&cx, SETTLED_DAYS).await {
            tracing::warn!(worker = %cx.worker, %error, "cannot delete old counts of dead letters");
        }
        if let Err(error) = delete_activity(&cx, &duty).await {
            tracing::warn!(worker = %cx.worker, %error, "cannot delete old session events");
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
    /// The last one.
    floor: u64,
    /// Up to where it was purged for being too full.
    purged: u64,
    /// Up to where it was looked for decided ones above the floor.
    looked: u64,
}

impl Decided {
    /// Purges what was decided an hour ago, and while the stream is half full what was decided
    /// since, oldest first. What is not decided is never purged.
    async fn purge(&mut self, cx: &Context, duty: &Duty) -> anyhow::Result<()> {
        let nats = &cx.nats;
        purge(nats, |consumer, floor| self.note(Instant::now(), consumer, floor)).await?;
        while is_half_full(nats).await? {
            let Some(next) = self.next() else {
                let looked = above_floor::delete(cx, duty, self.looked.max(self.floor)).await?;
                self.looked = looked.unwrap_or(0);
                break;
            };
            tracing::debug!(next, "{STREAM} fills");
            purge(nats, |consumer, _| (consumer == self.consumer).then_some(next)).await?;
        }
        Ok(())
    }

    /// The oldest floor that is not purged up to yet.
    fn next(&mut self) -> Option<u64> {
        let known = std::iter::from_fn(|| self.floors.pop_front()).map(|(_, floor)| floor);
        let next = known.chain([self.floor]).find(|floor| *floor > self.purged);
        self.purged = next.unwrap_or(self.purged);
        next
    }

    /// Notes a floor, and returns the one that has stood for the time of inspection.
    fn note(&mut self, now: Instant, consumer: &str, floor: u64) -> Option<u64> {
        if self.consumer != consumer {
            *self = Self { consumer: consumer.to_owned(), ..Self::default() };
        }
        self.floor = floor;
        if self.floors.back().is_none_or(|(at, _)| now.duration_since(*at) >= EVERY) {
            self.floors.push_back((now, floor));
        }
        let mut old = None;
        while self.floors.front().is_some_and(|(at, _)| now.duration_since(*at) >= INSPECTION) {
            old = self.floors.pop_front().map(|(_, floor)| floor);
        }
        old
    }
}

/// # Errors
/// Where the stream cannot be asked.
pub async fn is_half_full(nats: &Nats) -> anyhow::Result<bool> {
    let info = ask(nats, format!("STREAM.INFO.{STREAM}"), json!({})).await?;
    let bytes = info["state"]["bytes"].as_u64().context("no bytes")?;
    // Less than nothing: it may hold any number.
    let most = info["config"]["max_bytes"].as_u64();
    Ok(most.is_some_and(|most| bytes.saturating_mul(2) >= most))
}

/// Purges the stream up to where `choose` says, given the consumer and its acknowledged floor:
/// everything up to that is decided or dead.
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
async fn forget_outcomes(cx: &Context, duty: &Duty, days: i32) -> sqlx::Result<()> {
    loop {
        let deleted = bounded(&cx.postgres, async |connection| {
            sqlx::query_file!("src/workers/command_handler/forget_outcomes.sql", days, AT_ONCE)
                .execute(&mut **connection)
                .await
        });
        let deleted = deleted.await?.rows_affected();
        duty.moved();
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

/// Deletes dead letters that something was done with so many days ago, in pieces.
async fn forget_settled(cx: &Context, days: i32) -> sqlx::Result<()> {
    loop {
        let deleted = bounded(&cx.postgres, async |connection| {
            sqlx::query!(
                "delete from brigade.dead_letter_actions where ctid = any (array (
                     select ctid from brigade.dead_letter_actions
                     where left_at < statement_timestamp() - make_interval(days => $1)
                     limit $2
                 ))",
                days,
                AT_ONCE,
            )
            .execute(&mut **connection)
            .await
        });
        if deleted.await?.rows_affected() < AT_ONCE.cast_unsigned() || cx.drain.is_cancelled() {
            return Ok(());
        }
    }
}

/// Deletes the counts of dead letters that were not kept, so many days after the last one. There
/// are at most a hundred of a tenant.
async fn forget_overflow(cx: &Context, days: i32) -> sqlx::Result<()> {
    bounded(&cx.postgres, async |connection| {
        sqlx::query!(
            "delete from brigade.dead_letter_overflow
             where last_at < statement_timestamp() - make_interval(days => $1)",
            days,
        )
        .execute(&mut **connection)
        .await
    })
    .await?;
    Ok(())
}

/// Deletes old rows of `user_activity`, in pieces. Ids of events grow with time, so the oldest ones
/// are the first by key, and no piece reads more rows than it may delete.
async fn delete_activity(cx: &Context, duty: &Duty) -> sqlx::Result<()> {
    for _ in 0..ACTIVITY_PIECES {
        let deleted = bounded(&cx.postgres, async |connection| {
            sqlx::query!(
                "delete from brigade.user_activity where event_id = any (array (
                     select event_id from (
                         select event_id, at from brigade.user_activity order by event_id limit $2
                     ) oldest
                     where at < statement_timestamp() - make_interval(days => $1)
                 ))",
                ACTIVITY_DAYS,
                AT_ONCE,
            )
            .execute(&mut **connection)
            .await
        });
        let deleted = deleted.await?.rows_affected();
        duty.moved();
        if deleted < AT_ONCE.cast_unsigned() || cx.drain.is_cancelled() {
            break;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Database;

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
        // Too full: what was decided goes piece by piece, up to the last one and no further.
        let more: Vec<_> = std::iter::from_fn(|| decided.next()).collect();
        assert_eq!((more[0], more.len(), more.last()), (30, 60, Some(&620)));
        decided.note(minute(62), "a", 625);
        assert_eq!((decided.next(), decided.next()), (Some(625), None));
        // A new stream: what is known of the old one says nothing about it.
        assert_eq!(decided.note(minute(63), "b", 5), None);
        assert_eq!(decided.floors.len(), 1);
        assert_eq!((decided.next(), decided.next()), (Some(5), None));
    }
}
