//! Claims of actions: a row of the archive, locked while its action is under way.

use anyhow::{Result, bail};
use brigade_contracts::{Timestamp, planted::PlantedBug};
use sqlx::{Postgres, Transaction};

use super::{DeadLetters, Letter};
use crate::runtime::dead_letter::headers_as_json;

/// An action on a letter, as the archive records it.
pub(super) struct Action<'a> {
    pub kind: &'static str,
    pub reason: Option<&'a str>,
    pub actor: &'a str,
}

impl DeadLetters {
    /// Claims an action, and returns whether it was not claimed before.
    ///
    /// # Errors
    /// If another action is claimed, or one is completed.
    pub(super) async fn claim(
        &self,
        tx: &mut Transaction<'_, Postgres>,
        letter: &Letter,
        payload: &[u8],
        action: &Action<'_>,
    ) -> Result<bool> {
        let (created, seq) = self.key(letter.number);
        let claimed = sqlx::query!(
            "insert into brigade.dead_letter_actions
                 (dlq_created, dlq_seq, action, subject, reason, actor, worker, headers, payload)
             values ($1, $2, $3, $4, $5, $6, $7, $8::text::json, $9)
             on conflict (dlq_created, dlq_seq) do nothing",
            created,
            seq,
            action.kind,
            letter.subject,
            action.reason,
            action.actor,
            letter.worker,
            headers_as_json(&letter.headers),
            payload,
        )
        .execute(&mut **tx)
        .await?
        .rows_affected();
        self.lock_claim(tx, letter, action.kind).await?;
        Ok(claimed == 1)
    }

    /// Locks a claim.
    ///
    /// # Errors
    /// If it is of another action, or completed.
    pub(super) async fn lock_claim(
        &self,
        tx: &mut Transaction<'_, Postgres>,
        letter: &Letter,
        action: &str,
    ) -> Result<()> {
        let number = letter.number;
        let (created, seq) = self.key(number);
        let found = sqlx::query!(
            "select action, actor, done_at from brigade.dead_letter_actions
             where dlq_created = $1 and dlq_seq = $2 for update",
            created,
            seq,
        )
        .fetch_one(&mut **tx)
        .await?;
        match found.done_at {
            Some(at) if !PlantedBug::DeadLetterReplayedTwice.is_planted() => {
                let at = Timestamp::from(at);
                bail!("dead letter {number} was {} by {} at {at}", done(&found.action), found.actor)
            }
            None if found.action != action => {
                bail!("dead letter {number}: a {} by {} is under way", found.action, found.actor)
            }
            _ => Ok(()),
        }
    }

    /// Deletes a claim whose action had no effect.
    pub(super) async fn delete_claim(
        &self,
        tx: &mut Transaction<'_, Postgres>,
        letter: &Letter,
    ) -> Result<()> {
        let (created, seq) = self.key(letter.number);
        sqlx::query!(
            "delete from brigade.dead_letter_actions where dlq_created = $1 and dlq_seq = $2",
            created,
            seq,
        )
        .execute(&mut **tx)
        .await?;
        Ok(())
    }

    /// Records that a claimed action is completed.
    pub(super) async fn complete(
        &self,
        tx: &mut Transaction<'_, Postgres>,
        letter: &Letter,
    ) -> Result<()> {
        let (created, seq) = self.key(letter.number);
        sqlx::query!(
            "update brigade.dead_letter_actions set done_at = clock_timestamp()
             where dlq_created = $1 and dlq_seq = $2",
            created,
            seq,
        )
        .execute(&mut **tx)
        .await?;
        Ok(())
    }
}

/// Returns what was done to a letter by an action that is completed.
pub(super) fn done(action: &str) -> &'static str {
    if action == "drop" { "dropped" } else { "replayed" }
}
