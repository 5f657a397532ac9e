//! The archive: letters with the actions that operators have completed.

use std::collections::HashMap;

use anyhow::Result;
use bytes::Bytes;
use time::OffsetDateTime;

use super::{DeadLetters, Letter, Number, letter::headers_of};
use crate::runtime::dead_letter::headers_as_json;

impl DeadLetters {
    /// Returns the letters with completed actions, or only those that are not removed yet, with
    /// their payloads if that is wanted. Those of an earlier stream are left out: their numbers mean
    /// other letters now.
    pub(super) async fn archived(
        &self,
        all: bool,
        with_payloads: bool,
    ) -> Result<HashMap<Number, (Letter, Vec<u8>)>> {
        self.read_archive(all, None, with_payloads).await
    }

    /// Returns one of them.
    pub(super) async fn archived_letter(&self, number: Number) -> Result<Option<Letter>> {
        let found = self.read_archive(true, Some(number), false).await?.remove(&number);
        Ok(found.map(|(letter, _)| letter))
    }

    async fn read_archive(
        &self,
        all: bool,
        number: Option<Number>,
        with_payloads: bool,
    ) -> Result<HashMap<Number, (Letter, Vec<u8>)>> {
        let (created, seq) = number.map(|number| self.key(number)).unzip();
        let rows = sqlx::query!(
            r#"select dlq_seq, dlq_created = $2 as "in_table!", action, subject, claimed_at,
                      coalesce(worker, '') as "worker!",
                      coalesce(headers::text, '[]') as "headers!",
                      coalesce(case when $6 then payload end, '') as "payload!"
               from brigade.dead_letter_actions
               where done_at is not null and dlq_created in ($1, $2) and ($5 or left_at is null)
                 and ($3::timestamptz is null or (dlq_created, dlq_seq) = ($3, $4))"#,
            self.created,
            OffsetDateTime::UNIX_EPOCH,
            created,
            seq,
            all,
            with_payloads,
        )
        .fetch_all(&self.postgres)
        .await?;
        let mut letters = HashMap::new();
        for row in rows {
            let number = number_of(row.in_table, row.dlq_seq);
            let headers = headers_of(&row.headers)?;
            let letter = Letter::new(number, &row.worker, headers, row.claimed_at);
            let (subject, action) = (row.subject, Some(row.action));
            letters.insert(number, (Letter { subject, action, ..letter }, row.payload));
        }
        Ok(letters)
    }

    pub(super) async fn archived_payload(&self, number: Number) -> Result<Option<Bytes>> {
        let (created, seq) = self.key(number);
        let payload = sqlx::query_scalar!(
            "select payload from brigade.dead_letter_actions
             where dlq_created = $1 and dlq_seq = $2",
            created,
            seq,
        )
        .fetch_optional(&self.postgres)
        .await?;
        Ok(payload.flatten().map(Bytes::from))
    }

    /// Returns the letters whose actions are completed and that are not removed yet, each with
    /// whether the archive has it whole.
    pub(super) async fn to_be_removed(&self) -> Result<Vec<(Number, bool)>> {
        let rows = sqlx::query!(
            r#"select dlq_seq, dlq_created = $1 as "in_table!", payload is not null as "whole!"
               from brigade.dead_letter_actions where done_at is not null and left_at is null"#,
            OffsetDateTime::UNIX_EPOCH,
        )
        .fetch_all(&self.postgres)
        .await?;
        let numbers = rows.into_iter().map(|row| (number_of(row.in_table, row.dlq_seq), row.whole));
        Ok(numbers.collect())
    }

    /// Adds the letter to a row of the time when letters stayed in the stream.
    pub(super) async fn complete_archive(&self, letter: &Letter, payload: &[u8]) -> Result<()> {
        let (created, seq) = self.key(letter.number);
        sqlx::query!(
            "update brigade.dead_letter_actions
             set worker = $3, headers = $4::text::json, payload = $5
             where dlq_created = $1 and dlq_seq = $2",
            created,
            seq,
            letter.worker,
            headers_as_json(&letter.headers),
            payload,
        )
        .execute(&self.postgres)
        .await?;
        Ok(())
    }

    /// Records that letters were removed from where they were stored.
    pub(super) async fn removed(&self, numbers: &[Number]) -> Result<()> {
        let (created, seqs) = self.keys(numbers);
        sqlx::query!(
            "update brigade.dead_letter_actions set left_at = clock_timestamp()
             where (dlq_created, dlq_seq)
                 in (select * from unnest($1::timestamptz[], $2::bigint[]))",
            &created,
            &seqs,
        )
        .execute(&self.postgres)
        .await?;
        Ok(())
    }
}

pub(super) fn number_of(in_table: bool, seq: i64) -> Number {
    let seq = seq.cast_unsigned();
    if in_table { Number::Table(seq) } else { Number::Stream(seq) }
}
