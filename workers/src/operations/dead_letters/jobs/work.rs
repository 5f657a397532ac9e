//! Works jobs off, some letters of each in turn.

use std::{future::Future, time::Duration};

use anyhow::{Context as _, Result};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use sqlx::PgPool;
use time::OffsetDateTime;
use tokio::time::timeout;

use super::super::{
    DeadLetters, Number,
    action::{Action, ActionResult, Entry, Kind, Refused},
    archive::number_of,
    replay::behind,
};
use crate::infra::{Context, lease::LeasedRounds, postgres::bounded};

const LEASE: &str = "command-handler.dead_letter_jobs";
/// Interval between two looks for jobs.
const INTERVAL: Duration = Duration::from_millis(500);
/// Letters that are acted on together, and after how many bytes of payloads fewer are.
const AT_ONCE: i64 = 64;
const BYTES_AT_ONCE: usize = 4 * 1024 * 1024;
/// Longest wait for these letters.
const STEP: Duration = Duration::from_secs(5);
/// Connections to Postgres while there are jobs.
const CONNECTIONS: u32 = 2;
/// Letters that are read at the same time.
const READ_AT_ONCE: usize = 16;

/// A job that has not ended.
struct OpenJob {
    id: i64,
    action: String,
    reason: Option<String>,
    actor: String,
}

/// A letter of a job that is still to be acted on.
struct Item {
    position: i64,
    number: Number,
    aggregate: String,
    /// Its stream is gone, and it with it.
    is_of_former_stream: bool,
    /// One of its aggregate before it that was refused, and is still a letter.
    gap: Option<Number>,
}

/// Works off the jobs that operators have left to the fleet, under a lease, until the drain.
pub async fn keep(cx: Context) {
    let duty = cx.health.duty("dead letter jobs");
    let mut rounds = LeasedRounds::new(&cx, LEASE, duty).every(INTERVAL);
    while rounds.begin().await {
        match work(&cx, &mut rounds).await {
            Ok(()) => rounds.succeeded(),
            Err(error) => {
                let error = format!("{error:#}");
                tracing::warn!(worker = %cx.worker, error, "jobs of dead letters wait");
                rounds.blocked();
            }
        }
    }
}

/// Acts on letters until there is nothing more that can be done now.
async fn work(cx: &Context, rounds: &mut LeasedRounds) -> Result<()> {
    let mut jobs = open_jobs(cx).await?;
    if jobs.is_empty() {
        return Ok(());
    }
    let mut letters = DeadLetters::open(cx.nats.jetstream.clone(), own_pool(cx)).await?;
    letters.fail = cx.fail.clone();
    // Whoever did it before may have died before this.
    in_time(letters.remove_completed()).await?;
    let mut failed = Ok(());
    while !jobs.is_empty() {
        let mut going = Vec::new();
        for job in jobs {
            if cx.drain.is_cancelled() || !rounds.renew().await? {
                return Ok(());
            }
            rounds.duty().moved();
            match in_time(letters.go_on(&job)).await {
                Ok(true) => going.push(job),
                Ok(false) => {}
                // The others need not wait for it.
                Err(error) => {
                    in_time(letters.hold_up(job.id, &format!("{error:#}"))).await?;
                    failed = Err(error);
                }
            }
        }
        jobs = going;
    }
    failed
}

/// Returns a pool for this round alone: no decision waits for its connections, and whatever has
/// become of them is over with the round.
fn own_pool(cx: &Context) -> PgPool {
    let options = cx.postgres.options().clone().max_connections(CONNECTIONS);
    options.connect_lazy_with(cx.postgres.connect_options().as_ref().clone())
}

async fn in_time<T>(step: impl Future<Output = Result<T>>) -> Result<T> {
    timeout(STEP, step).await.context("Postgres or NATS does not answer in time")?
}

async fn open_jobs(cx: &Context) -> sqlx::Result<Vec<OpenJob>> {
    bounded(&cx.postgres, async |connection| {
        sqlx::query_as!(
            OpenJob,
            "select id, action, reason, actor from brigade.dead_letter_jobs
             where ended_at is null order by id",
        )
        .fetch_all(&mut **connection)
        .await
    })
    .await
}

impl DeadLetters {
    /// Acts on the next letters of a job. Returns false if there are none, or if it has to wait.
    async fn go_on(&self, job: &OpenJob) -> Result<bool> {
        let items = self.next_items(job.id).await?;
        if items.is_empty() {
            self.end_job(job.id).await?;
            return Ok(false);
        }
        let (items, mut entries) = self.read_items(items).await?;
        let action = Action {
            kind: Kind::parse(&job.action).context("an unknown action")?,
            reason: job.reason.as_deref(),
            actor: &job.actor,
            job: Some(job.id),
            edited: None,
        };
        let mut readable: Vec<_> = entries.iter_mut().filter_map(Option::take).collect();
        self.act(&mut readable, &action).await?;
        let moved = self.count(job.id, &items, &readable).await?;
        self.remove_completed().await?;
        Ok(moved)
    }

    async fn next_items(&self, job: i64) -> Result<Vec<Item>> {
        let rows = sqlx::query!(
            r#"select i.position, i.dlq_seq, i.aggregate, i.dlq_created = $4 as "in_table!",
                      i.dlq_created not in ($3, $4) as "is_of_former_stream!",
                      gap.dlq_seq as "gap_seq?", gap.dlq_created = $4 as "gap_in_table?"
               from brigade.dead_letter_job_items i
               join brigade.dead_letter_jobs j on j.id = i.job
               left join lateral (
                   select dlq_seq, dlq_created from brigade.dead_letter_job_items
                   where is_gap and job = i.job and aggregate = i.aggregate
                     and position < i.position
                   order by position limit 1
               ) gap on true
               where i.job = $1 and i.refused is null and j.ended_at is null
               order by i.position limit $2"#,
            job,
            AT_ONCE,
            self.created,
            OffsetDateTime::UNIX_EPOCH,
        )
        .fetch_all(&self.postgres)
        .await?;
        let items = rows.into_iter().map(|row| Item {
            position: row.position,
            number: number_of(row.in_table, row.dlq_seq),
            aggregate: row.aggregate,
            is_of_former_stream: row.is_of_former_stream,
            gap: row.gap_seq.map(|seq| number_of(row.gap_in_table == Some(true), seq)),
        });
        Ok(items.collect())
    }

    /// Reads letters, up to so many bytes. Items without one are refused when they are counted.
    async fn read_items(&self, items: Vec<Item>) -> Result<(Vec<Item>, Vec<Option<Entry>>)> {
        let reads = items.into_iter().map(|item| async move {
            if item.is_of_former_stream {
                return Ok((item, None));
            }
            let found = self.stored(item.number).await?;
            let found = match found {
                Some(found) => Some(found),
                // Its action is completed, also its removal.
                None => match self.archived_letter(item.number).await? {
                    Some(letter) => Some((letter, self.payload(item.number).await?)),
                    None => None,
                },
            };
            anyhow::Ok((item, found))
        });
        let mut reads = stream::iter(reads).buffered(READ_AT_ONCE);
        let (mut read, mut entries, mut bytes) = (Vec::new(), Vec::new(), 0);
        while let Some((item, found)) = reads.try_next().await? {
            let entry = found.map(|(letter, payload)| {
                bytes += payload.len();
                let mut entry = Entry::new(letter, payload);
                if let Some(gap) = item.gap.filter(|_| !entry.is_event()) {
                    entry.refuse(behind(&item.aggregate, gap));
                }
                entry
            });
            read.push(item);
            entries.push(entry);
            if bytes > BYTES_AT_ONCE {
                break;
            }
        }
        Ok((read, entries))
    }

    /// Records what has become of items, in one statement. Returns false if all of them wait.
    async fn count(&self, job: i64, items: &[Item], entries: &[Entry]) -> Result<bool> {
        let mut settled: (Vec<i64>, Vec<bool>) = Default::default();
        let (mut refused, mut whys, mut gaps) = (Vec::new(), Vec::new(), Vec::new());
        let mut waits = None;
        for item in items {
            let entry = entries.iter().find(|entry| entry.number() == item.number);
            let result = match entry {
                Some(entry) => entry.result.clone(),
                None => Some(ActionResult::Refused(Refused::no_gap("it is not there any more"))),
            };
            match result {
                Some(ActionResult::Done) => settled.extend([(item.position, false)]),
                Some(ActionResult::DoneBefore(_)) => settled.extend([(item.position, true)]),
                Some(ActionResult::Refused(Refused { why, is_gap })) => {
                    refused.push(item.position);
                    whys.push(why);
                    gaps.push(is_gap);
                }
                Some(ActionResult::Waits(why)) => waits = waits.or(Some(why)),
                None => {}
            }
        }
        let (positions, by_others) = settled;
        let moved = !positions.is_empty() || !refused.is_empty();
        // Another one who holds the lease for a moment finds the rows gone, and counts none again.
        sqlx::query!(
            "with settled as (
                 delete from brigade.dead_letter_job_items i
                 using unnest($2::bigint[], $3::bool[]) as s (position, by_others)
                 where i.job = $1 and i.position = s.position
                 returning s.by_others
             ), refused as (
                 update brigade.dead_letter_job_items i set refused = r.why, is_gap = r.is_gap
                 from unnest($4::bigint[], $5::text[], $6::bool[]) as r (position, why, is_gap)
                 where i.job = $1 and i.position = r.position and i.refused is null
                 returning i.position
             )
             update brigade.dead_letter_jobs set
                 done = done + (select count(*) from settled where not by_others),
                 done_before = done_before + (select count(*) from settled where by_others),
                 refused = refused + (select count(*) from refused),
                 worked_at = clock_timestamp(),
                 waits = $7
             where id = $1",
            job,
            &positions,
            &by_others,
            &refused,
            &whys,
            &gaps,
            waits.filter(|_| !moved),
        )
        .execute(&self.postgres)
        .await?;
        Ok(moved)
    }

    async fn hold_up(&self, job: i64, why: &str) -> Result<()> {
        sqlx::query!(
            "update brigade.dead_letter_jobs set waits = $2 where id = $1 and ended_at is null",
            job,
            why,
        )
        .execute(&self.postgres)
        .await?;
        Ok(())
    }

    async fn end_job(&self, job: i64) -> Result<()> {
        sqlx::query!(
            "update brigade.dead_letter_jobs
             set ended_at = clock_timestamp(), waits = null
             where id = $1 and ended_at is null",
            job,
        )
        .execute(&self.postgres)
        .await?;
        Ok(())
    }
}
