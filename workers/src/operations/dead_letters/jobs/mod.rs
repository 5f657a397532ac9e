//! Jobs: an operator leaves it to the fleet to replay or drop many letters.
//!
//! A job and its letters are rows, stored in one transaction: `brigade.dead_letter_jobs`, and in
//! `brigade.dead_letter_job_items` what is still to be done. One command-handler, by a lease, works
//! them off ([`keep`]). Whatever dies on the way, terminal or worker, the rows say how far it is;
//! and since each letter is claimed ([`super`]), two jobs with the same letters act on each once.

mod follow;
mod work;

use std::fmt;

use anyhow::{Result, bail};
use sqlx::PgConnection;
use time::OffsetDateTime;

pub use self::{follow::Followed, work::keep};
use super::{DeadLetters, Letter, action::Kind};

/// Letters that one statement adds to a job.
const AT_ONCE: usize = 5000;

/// What is to be done with all letters of a job.
#[derive(Clone, Debug)]
pub enum JobAction {
    /// With a reason it is forced.
    Replay {
        force: Option<String>,
    },
    Drop {
        because: String,
    },
}

/// A job, and how far it is.
#[derive(Clone, Debug)]
pub struct Job {
    pub id: i64,
    /// `replay` or `drop`.
    pub action: String,
    pub reason: Option<String>,
    pub actor: String,
    /// The filter, as the operator wrote it.
    pub selection: String,
    pub letters: i64,
    pub done: i64,
    /// Somebody else was faster.
    pub done_before: i64,
    pub refused: i64,
    pub created_at: OffsetDateTime,
    /// When letters were last acted on.
    pub worked_at: Option<OffsetDateTime>,
    /// Why it does not go on at the moment.
    pub waits: Option<String>,
    pub ended_at: Option<OffsetDateTime>,
    pub cancelled_by: Option<String>,
}

impl JobAction {
    fn columns(&self) -> (Kind, Option<&str>) {
        match self {
            Self::Replay { force } => (Kind::Replay, force.as_deref()),
            Self::Drop { because } => (Kind::Drop, Some(because)),
        }
    }
}

impl Job {
    /// Returns the number of letters that were looked at.
    #[must_use]
    pub fn settled(&self) -> i64 {
        self.done + self.done_before + self.refused
    }

    #[must_use]
    pub fn state(&self) -> &'static str {
        match (&self.cancelled_by, self.ended_at, self.worked_at) {
            (Some(_), ..) => "cancelled",
            (None, Some(_), _) => "done",
            (None, None, _) if self.waits.is_some() => "held up",
            (None, None, Some(_)) => "running",
            (None, None, None) => "waiting",
        }
    }
}

impl fmt::Display for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, letters, done, done_before, refused, .. } = self;
        let what = super::action::done(&self.action);
        write!(f, "job {id} is {}: {done} of {letters} letters {what}", self.state())?;
        if *done_before > 0 {
            write!(f, ", {done_before} were settled by others before")?;
        }
        if *refused > 0 {
            write!(f, ", {refused} refused")?;
        }
        match &self.waits {
            Some(why) => write!(f, " ({why})"),
            None => Ok(()),
        }
    }
}

impl DeadLetters {
    /// Stores a job for these letters, and returns its number. They are acted on in the order in
    /// which their messages were first stored.
    ///
    /// # Errors
    /// If Postgres fails; there is no job then.
    pub async fn begin_job(
        &self,
        action: &JobAction,
        actor: &str,
        selection: &str,
        letters: &[Letter],
    ) -> Result<i64> {
        let (kind, reason) = action.columns();
        let count = i64::try_from(letters.len())?;
        let letters = in_order_of_origin(letters);
        self.in_transaction(async |tx| {
            let id = sqlx::query_scalar!(
                "insert into brigade.dead_letter_jobs (action, reason, actor, selection, letters)
                 values ($1, $2, $3, $4, $5) returning id",
                kind.as_str(),
                reason,
                actor,
                selection,
                count,
            )
            .fetch_one(&mut *tx)
            .await?;
            for (batch, first) in letters.chunks(AT_ONCE).zip((0_i64..).step_by(AT_ONCE)) {
                self.add_items(tx, id, first, batch).await?;
            }
            Ok(id)
        })
        .await
    }

    async fn add_items(
        &self,
        tx: &mut PgConnection,
        job: i64,
        first: i64,
        letters: &[&Letter],
    ) -> Result<()> {
        let numbers: Vec<_> = letters.iter().map(|letter| letter.number).collect();
        let aggregates: Vec<_> = letters.iter().map(|letter| letter.aggregate()).collect();
        let (created, seqs) = self.keys(&numbers);
        sqlx::query!(
            "insert into brigade.dead_letter_job_items (job, position, dlq_created, dlq_seq,
                                                        aggregate)
             select $1, $2 + place, created, seq, aggregate
             from unnest($3::timestamptz[], $4::bigint[], $5::text[])
                 with ordinality as l (created, seq, aggregate, place)",
            job,
            first,
            &created,
            &seqs,
            &aggregates,
        )
        .execute(tx)
        .await?;
        Ok(())
    }

    /// Returns jobs of the last 30 days, the newest first.
    ///
    /// # Errors
    /// If Postgres fails.
    pub async fn jobs(&self, limit: i64) -> Result<Vec<Job>> {
        let jobs = sqlx::query_as!(
            Job,
            "select id, action, reason, actor, selection, letters, done, done_before, refused,
                    created_at, worked_at, waits, ended_at, cancelled_by
             from brigade.dead_letter_jobs order by id desc limit $1",
            limit,
        );
        Ok(jobs.fetch_all(&self.postgres).await?)
    }

    /// Returns a job.
    ///
    /// # Errors
    /// If there is none of this number.
    pub async fn job(&self, id: i64) -> Result<Job> {
        let job = sqlx::query_as!(
            Job,
            "select id, action, reason, actor, selection, letters, done, done_before, refused,
                    created_at, worked_at, waits, ended_at, cancelled_by
             from brigade.dead_letter_jobs where id = $1",
            id,
        );
        match job.fetch_optional(&self.postgres).await? {
            Some(job) => Ok(job),
            None => bail!("there is no job {id}: `brigade dlq jobs` lists them"),
        }
    }

    /// Ends a job early: letters that are not acted on yet stay. Returns false if it has ended.
    ///
    /// # Errors
    /// If Postgres fails.
    pub async fn cancel_job(&self, id: i64, actor: &str) -> Result<bool> {
        let cancelled = sqlx::query!(
            "update brigade.dead_letter_jobs
             set ended_at = clock_timestamp(), cancelled_by = $2, waits = null
             where id = $1 and ended_at is null",
            id,
            actor,
        );
        Ok(cancelled.execute(&self.postgres).await?.rows_affected() > 0)
    }
}

/// Returns letters in the order in which their messages were stored in their streams: of an
/// aggregate's commands, which may have died in any order, that is the one in which they were sent.
fn in_order_of_origin(letters: &[Letter]) -> Vec<&Letter> {
    let mut letters: Vec<_> = letters.iter().collect();
    letters.sort_by_cached_key(|letter| {
        let (stream, sequence) = letter.origin();
        (stream.to_owned(), sequence, letter.number)
    });
    letters
}

#[cfg(test)]
mod tests {
    use async_nats::HeaderMap;

    use super::*;
    use crate::operations::dead_letters::Number;

    #[test]
    fn commands_are_sent_in_the_order_in_which_they_were_sent_first() {
        let letter = |number, origin: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("Origin-Stream", "COMMANDS");
            headers.insert("Origin-Seq", origin);
            Letter::new(number, "command-handler", headers, OffsetDateTime::UNIX_EPOCH)
        };
        let numbers = [Number::Stream(1), Number::Stream(2), Number::Table(1), Number::Table(2)];
        let letters: Vec<_> =
            numbers.into_iter().zip(["10", "9", "9", "2"]).map(|(n, o)| letter(n, o)).collect();
        let ordered: Vec<_> = in_order_of_origin(&letters).iter().map(|l| l.number).collect();
        let expected = [Number::Table(2), Number::Stream(2), Number::Table(1), Number::Stream(1)];
        assert_eq!(ordered, expected);
    }

    #[test]
    fn a_job_says_how_far_it_is() {
        let at = OffsetDateTime::UNIX_EPOCH;
        let mut job = Job {
            id: 3,
            action: "replay".to_owned(),
            reason: None,
            actor: "ada".to_owned(),
            selection: String::new(),
            letters: 100,
            done: 0,
            done_before: 0,
            refused: 0,
            created_at: at,
            worked_at: None,
            waits: None,
            ended_at: None,
            cancelled_by: None,
        };
        assert_eq!(job.to_string(), "job 3 is waiting: 0 of 100 letters replayed");
        job = Job { done: 64, done_before: 1, refused: 2, worked_at: Some(at), ..job };
        assert_eq!(
            job.to_string(),
            "job 3 is running: 64 of 100 letters replayed, 1 were settled by others before, \
             2 refused"
        );
        assert_eq!(job.settled(), 67);
        job.waits = Some("the stream is full".to_owned());
        assert!(job.to_string().ends_with("2 refused (the stream is full)"), "{job}");
        job = Job { waits: None, ended_at: Some(at), ..job };
        assert_eq!(job.state(), "done");
        job.cancelled_by = Some("bob".to_owned());
        assert_eq!(job.state(), "cancelled");
    }
}
