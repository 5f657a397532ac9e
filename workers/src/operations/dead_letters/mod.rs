//! Dead letters, as an operator works with them: list, replay, drop.
//!
//! A letter is stored in the stream `DLQ`, or in `brigade.dead_letters` where the stream did not
//! accept it, until an operator replays or drops it. Then it is kept, whole, in the **archive**
//! `brigade.dead_letter_actions`, with who did what, for 30 days.
//!
//! An action is claimed in the archive first, so it happens once: a second one of another kind is
//! refused, and an interrupted one is completed by repeating it. Last of all the letter is removed
//! from where it was stored; the next action completes a removal that was interrupted.

mod archive;
mod claim;
mod drop;
mod letter;
mod list;
mod outcomes;
mod overflow;
mod replay;
mod stored;

use anyhow::{Context as _, Result};
use async_nats::jetstream;
use sqlx::PgPool;
use time::OffsetDateTime;

pub use self::{
    letter::{Filter, Letter, Number},
    list::Page,
    overflow::Overflow,
};

const STREAM: &str = "DLQ";

/// The stream and the table that hold dead letters, and the archive.
pub struct DeadLetters {
    js: jetstream::Context,
    postgres: PgPool,
    created: OffsetDateTime,
}

impl DeadLetters {
    /// # Errors
    /// If the stream cannot be read.
    pub async fn open(js: jetstream::Context, postgres: PgPool) -> Result<Self> {
        let stream = js.get_stream(STREAM).await.context("the stream DLQ cannot be read")?;
        let created = stream.cached_info().created;
        Ok(Self { js, postgres, created })
    }

    /// Returns when the stream was created: its letters are numbered from 1.
    #[must_use]
    pub fn created(&self) -> OffsetDateTime {
        self.created
    }

    /// Returns the key of a letter in the archive: those of the table have the time 0 as that of
    /// their stream.
    fn key(&self, number: Number) -> (OffsetDateTime, i64) {
        match number {
            Number::Stream(seq) => (self.created, seq.cast_signed()),
            Number::Table(seq) => (OffsetDateTime::UNIX_EPOCH, seq.cast_signed()),
        }
    }
}
