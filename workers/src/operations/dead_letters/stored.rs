//! Single letters where they are stored: read whole, and removed after an action.

use anyhow::{Context as _, Result};
use async_nats::{
    HeaderMap,
    jetstream::{ErrorCode, response::Response, stream::RawMessage},
};
use base64::{Engine, prelude::BASE64_STANDARD};
use brigade_contracts::Timestamp;
use bytes::Bytes;
use futures::future::try_join_all;
use serde::Deserialize;
use serde_json::{Value, json};
use time::OffsetDateTime;

use super::{
    DeadLetters, Letter, Number, STREAM,
    letter::{headers_of, worker_of},
};
use crate::infra::intake::headers_of_block;

/// Letters that are removed at the same time.
const REMOVED_TOGETHER: usize = 32;

/// The server's answer to the question for one message.
#[derive(Deserialize)]
struct Found {
    message: RawMessage,
}

impl DeadLetters {
    /// Returns one letter, also of the archive.
    ///
    /// # Errors
    /// If there is none of this number.
    pub async fn get(&self, number: Number) -> Result<Letter> {
        let letter = match self.archived_letter(number).await? {
            Some(letter) => Some(letter),
            None => self.stored(number).await?.map(|(letter, _)| letter),
        };
        let created = Timestamp::from(self.created);
        let absent = || format!("no dead letter {number} since DLQ was created at {created}");
        let mut letters = [letter.with_context(absent)?];
        self.add_outcomes(&mut letters).await?;
        let [letter] = letters;
        Ok(letter)
    }

    /// Returns the payload of a letter, also of the archive.
    ///
    /// # Errors
    /// If there is none of this number.
    pub async fn payload(&self, number: Number) -> Result<Bytes> {
        if let Some((_, payload)) = self.stored(number).await? {
            return Ok(payload);
        }
        let payload = self.archived_payload(number).await?;
        payload.with_context(|| format!("no dead letter {number}"))
    }

    /// Returns a letter with its payload, if it was not removed yet.
    pub(super) async fn stored(&self, number: Number) -> Result<Option<(Letter, Bytes)>> {
        let sequence = match number {
            Number::Stream(sequence) => sequence,
            Number::Table(_) => return self.stored_in_table(number).await,
        };
        let asked = json!({ "seq": sequence });
        let found: Response<Found> =
            self.js.request(format!("STREAM.MSG.GET.{STREAM}"), &asked).await?;
        match found {
            Response::Ok(Found { message }) => Ok(Some(read(number, &message)?)),
            Response::Err { error } if error.error_code() == ErrorCode::NO_MESSAGE_FOUND => {
                Ok(None)
            }
            Response::Err { error } => Err(error.into()),
        }
    }

    async fn stored_in_table(&self, number: Number) -> Result<Option<(Letter, Bytes)>> {
        let found = sqlx::query!(
            r#"select subject, headers::text as "headers!", stored_at, payload
               from brigade.dead_letters where number = $1"#,
            self.key(number).1,
        )
        .fetch_optional(&self.postgres)
        .await?;
        let Some(row) = found else { return Ok(None) };
        let headers = headers_of(&row.headers)?;
        let letter = Letter::new(number, worker_of(&row.subject), headers, row.stored_at);
        Ok(Some((letter, row.payload.into())))
    }

    /// Removes the letters whose actions are completed from the stream or the table, after the
    /// archive has them whole.
    ///
    /// # Errors
    /// If NATS or Postgres fails; a repetition goes on with the rest.
    pub async fn remove_completed(&self) -> Result<()> {
        // A stream that is gone took its letters with it.
        sqlx::query!(
            "update brigade.dead_letter_actions set left_at = clock_timestamp()
             where done_at is not null and left_at is null and dlq_created <> all ($1)",
            &[self.created, OffsetDateTime::UNIX_EPOCH],
        )
        .execute(&self.postgres)
        .await?;
        let completed = self.to_be_removed().await?;
        for batch in completed.chunks(REMOVED_TOGETHER) {
            let removals = batch.iter().map(|(number, whole)| self.remove_one(*number, *whole));
            try_join_all(removals).await?;
            let numbers: Vec<_> = batch.iter().map(|(number, _)| *number).collect();
            self.removed(&numbers).await?;
        }
        Ok(())
    }

    async fn remove_one(&self, number: Number, whole: bool) -> Result<()> {
        if !whole && let Some((letter, payload)) = self.stored(number).await? {
            self.complete_archive(&letter, &payload).await?;
        }
        match number {
            Number::Stream(sequence) => self.delete_from_stream(sequence).await,
            Number::Table(_) => {
                let number = self.key(number).1;
                sqlx::query!("delete from brigade.dead_letters where number = $1", number)
                    .execute(&self.postgres)
                    .await?;
                Ok(())
            }
        }
    }

    /// The letter is not overwritten on disk: that holds up the server, and SQL keeps it anyway.
    async fn delete_from_stream(&self, sequence: u64) -> Result<()> {
        let which = json!({ "seq": sequence, "no_erase": true });
        let deleted: Response<Value> =
            self.js.request(format!("STREAM.MSG.DELETE.{STREAM}"), &which).await?;
        match deleted {
            Response::Ok(_) => Ok(()),
            // Somebody else has deleted it, or a run that was interrupted before it could record
            // that.
            Response::Err { .. } if self.stored(Number::Stream(sequence)).await?.is_none() => {
                Ok(())
            }
            Response::Err { error } => {
                let still = format!("dead letter {sequence} is still in the stream");
                Err(anyhow::Error::from(error).context(still))
            }
        }
    }
}

/// Reads a letter of the stream. The library keeps the last one of several headers of one name, so
/// a command that was refused because of them would look like one that may be sent again.
fn read(number: Number, message: &RawMessage) -> Result<(Letter, Bytes)> {
    let block = message.headers.as_deref().unwrap_or_default();
    let block = BASE64_STANDARD.decode(block).context("the headers are not base64")?;
    let mut headers = HeaderMap::new();
    if !block.is_empty() {
        let all = headers_of_block(&block).map_err(anyhow::Error::msg);
        for (name, value) in all.with_context(|| format!("dead letter {number}"))? {
            headers.append(name, value);
        }
    }
    let payload = BASE64_STANDARD.decode(&message.payload).context("the payload is not base64")?;
    let letter = Letter::new(number, worker_of(&message.subject), headers, message.time);
    Ok((letter, payload.into()))
}
