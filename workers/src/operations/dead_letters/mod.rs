//! Dead letters, as an operator works with them: list, group, replay, edit, drop.
//!
//! A letter is stored in the stream `DLQ`, or in `brigade.dead_letters` where the stream did not
//! accept it, until an operator replays or drops it. Then it is kept, whole, in the **archive**
//! `brigade.dead_letter_actions`, with who did what, for 30 days.
//!
//! An action is claimed in the archive first, so it happens once: a second one of another kind is
//! refused, and an interrupted one is completed by repeating it. Last of all the letter is removed
//! from where it was stored; the next action completes a removal that was interrupted.
//!
//! Many letters are acted on by a **job** ([`jobs`]): rows in SQL that command-handler works off.

mod action;
mod archive;
mod checks;
mod claim;
mod drop;
mod edit;
mod groups;
pub mod jobs;
mod letter;
mod list;
mod outbox;
mod outcomes;
mod overflow;
mod replay;
mod send;
mod stored;

use std::time::Duration;

use anyhow::{Context as _, Result};
use async_nats::jetstream;
use sqlx::{Connection as _, PgConnection, PgPool};
use time::OffsetDateTime;
use tokio::time::{Instant, timeout};

pub use self::{
    edit::{Edit, EditedCommand},
    groups::{Group, grouped},
    letter::{Filter, Letter, Number},
    list::Page,
    overflow::Overflow,
};
use crate::infra::{
    fail::FailPoints,
    postgres::{connection, finish},
};

const STREAM: &str = "DLQ";

/// Longest wait for a connection, and for a transaction.
const CONNECTED: Duration = Duration::from_secs(5);
const TRANSACTION: Duration = Duration::from_secs(20);

/// The stream and the table that hold dead letters, and the archive.
pub struct DeadLetters {
    js: jetstream::Context,
    postgres: PgPool,
    created: OffsetDateTime,
    fail: FailPoints,
}

impl DeadLetters {
    /// # Errors
    /// If the stream cannot be read.
    pub async fn open(js: jetstream::Context, postgres: PgPool) -> Result<Self> {
        let stream = js.get_stream(STREAM).await.context("the stream DLQ cannot be read")?;
        let created = stream.cached_info().created;
        Ok(Self { js, postgres, created, fail: FailPoints::default() })
    }

    /// Returns when the stream was created: its letters are numbered from 1.
    #[must_use]
    pub fn created(&self) -> OffsetDateTime {
        self.created
    }

    /// Returns the time that is so long ago by the clock of Postgres.
    ///
    /// # Errors
    /// If Postgres fails.
    pub async fn time_before(&self, age: Duration) -> Result<OffsetDateTime> {
        let time = sqlx::query_scalar!(
            r#"select clock_timestamp() - make_interval(secs => $1) as "time!""#,
            age.as_secs_f64(),
        );
        Ok(time.fetch_one(&self.postgres).await?)
    }

    /// Returns the key of a letter in the archive: those of the table have the time 0 as that of
    /// their stream.
    fn key(&self, number: Number) -> (OffsetDateTime, i64) {
        match number {
            Number::Stream(seq) => (self.created, seq.cast_signed()),
            Number::Table(seq) => (OffsetDateTime::UNIX_EPOCH, seq.cast_signed()),
        }
    }

    fn keys(&self, numbers: &[Number]) -> (Vec<OffsetDateTime>, Vec<i64>) {
        numbers.iter().map(|number| self.key(*number)).unzip()
    }

    /// Does something in a transaction, which is given up when it takes too long.
    async fn in_transaction<T>(
        &self,
        work: impl AsyncFnOnce(&mut PgConnection) -> Result<T>,
    ) -> Result<T> {
        let mut connection = connection(&self.postgres, Instant::now() + CONNECTED).await?;
        let done = timeout(TRANSACTION, async {
            let mut tx = connection.begin().await?;
            let done = work(&mut tx).await?;
            tx.commit().await?;
            anyhow::Ok(done)
        })
        .await;
        match done {
            Ok(done) => {
                finish(&self.postgres, connection, Ok(())).await?;
                done
            }
            Err(_) => {
                let given_up = Err(sqlx::Error::PoolTimedOut);
                Ok(finish(&self.postgres, connection, given_up).await?)
            }
        }
    }
}
