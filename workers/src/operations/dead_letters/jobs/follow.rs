//! What a job has done, for an operator who looks on.

use anyhow::Result;
use time::OffsetDateTime;

use super::super::{DeadLetters, Number, archive::number_of};

/// Rows that are read at once.
const PAGE: i64 = 1000;

/// How far somebody has read what a job has done.
#[derive(Clone, Copy, Debug)]
pub struct Followed {
    done_at: OffsetDateTime,
    number: i64,
}

impl Default for Followed {
    fn default() -> Self {
        Self { done_at: OffsetDateTime::UNIX_EPOCH, number: 0 }
    }
}

impl DeadLetters {
    /// Returns the next letters on which a job has acted, by number and subject, some at a time.
    ///
    /// # Errors
    /// If Postgres fails.
    pub async fn done_by_job(
        &self,
        job: i64,
        followed: &mut Followed,
    ) -> Result<Vec<(Number, String)>> {
        let rows = sqlx::query!(
            r#"select dlq_seq, dlq_created = $5 as "in_table!", subject, done_at as "done_at!"
               from brigade.dead_letter_actions
               where job = $1 and (done_at, dlq_seq) > ($2, $3)
               order by done_at, dlq_seq limit $4"#,
            job,
            followed.done_at,
            followed.number,
            PAGE,
            OffsetDateTime::UNIX_EPOCH,
        )
        .fetch_all(&self.postgres)
        .await?;
        if let Some(last) = rows.last() {
            *followed = Followed { done_at: last.done_at, number: last.dlq_seq };
        }
        Ok(rows
            .into_iter()
            .map(|row| (number_of(row.in_table, row.dlq_seq), row.subject))
            .collect())
    }

    /// Returns the letters that a job was refused, and why, behind a position; the new position
    /// first.
    ///
    /// # Errors
    /// If Postgres fails.
    pub async fn refused_by_job(&self, job: i64, after: i64) -> Result<Vec<(i64, Number, String)>> {
        let rows = sqlx::query!(
            r#"select position, dlq_seq, dlq_created = $4 as "in_table!", refused as "refused!"
               from brigade.dead_letter_job_items
               where job = $1 and position > $2 and refused is not null
               order by position limit $3"#,
            job,
            after,
            PAGE,
            OffsetDateTime::UNIX_EPOCH,
        )
        .fetch_all(&self.postgres)
        .await?;
        let refused = rows
            .into_iter()
            .map(|row| (row.position, number_of(row.in_table, row.dlq_seq), row.refused));
        Ok(refused.collect())
    }
}
