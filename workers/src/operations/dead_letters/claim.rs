//! Claims of actions: rows of the archive, locked while their actions are under way.

use std::collections::HashSet;

use anyhow::Result;
use brigade_contracts::{Timestamp, planted::PlantedBug};
use sqlx::PgConnection;
use time::OffsetDateTime;

use super::{
    DeadLetters, Number,
    action::{Action, ActionResult, Entry, Refused, done, open, open_numbers},
    archive::number_of,
};
use crate::runtime::dead_letter::headers_as_json;

/// A claim that was found.
struct Claim {
    number: Number,
    action: String,
    actor: String,
    done_at: Option<OffsetDateTime>,
    job: Option<i64>,
    edited_headers: Option<String>,
    edited_payload: Option<Vec<u8>>,
}

impl DeadLetters {
    /// Claims an action on the open entries, and locks the claims. Returns those that nobody has
    /// claimed before. An entry on which somebody has acted, or acts otherwise, is decided by it.
    pub(super) async fn claim(
        &self,
        tx: &mut PgConnection,
        entries: &mut [Entry],
        action: &Action<'_>,
    ) -> Result<HashSet<Number>> {
        let (created, seqs) = self.keys(&open_numbers(entries));
        let (mut subjects, mut workers, mut headers, mut payloads) =
            (vec![], vec![], vec![], vec![]);
        for entry in open(entries) {
            subjects.push(entry.letter.subject.clone());
            workers.push(entry.letter.worker.clone());
            headers.push(headers_as_json(&entry.letter.headers));
            payloads.push(entry.payload.to_vec());
        }
        let edited = action.edited;
        let claimed = sqlx::query!(
            r#"insert into brigade.dead_letter_actions
                   (dlq_created, dlq_seq, action, subject, reason, actor, worker, headers, payload,
                    job, edited_subject, edited_headers, edited_payload)
               select l.created, l.seq, $1, l.subject, $2, $3, l.worker, l.headers::json, l.payload,
                      $4, $5, $6::text::json, $7
               from unnest($8::timestamptz[], $9::bigint[], $10::text[], $11::text[], $12::text[],
                           $13::bytea[]) as l (created, seq, subject, worker, headers, payload)
               order by l.created, l.seq
               on conflict (dlq_created, dlq_seq) do nothing
               returning dlq_seq, dlq_created = $14 as "in_table!""#,
            action.kind.as_str(),
            action.reason,
            action.actor,
            action.job,
            edited.map(|edited| edited.subject.as_str()),
            edited.map(|edited| headers_as_json(&edited.headers)),
            edited.map(|edited| edited.payload.to_vec()),
            &created,
            &seqs,
            &subjects,
            &workers,
            &headers,
            &payloads,
            OffsetDateTime::UNIX_EPOCH,
        )
        .fetch_all(&mut *tx)
        .await?;
        self.lock_claims(tx, entries, action).await?;
        Ok(claimed.into_iter().map(|row| number_of(row.in_table, row.dlq_seq)).collect())
    }

    /// Locks the claims of the open entries. One that is completed, or of another action, decides
    /// its entry.
    pub(super) async fn lock_claims(
        &self,
        tx: &mut PgConnection,
        entries: &mut [Entry],
        action: &Action<'_>,
    ) -> Result<()> {
        let (created, seqs) = self.keys(&open_numbers(entries));
        let rows = sqlx::query!(
            r#"select a.dlq_seq, a.dlq_created = $3 as "in_table!", a.action, a.actor, a.done_at,
                      a.job, a.edited_headers::text as edited_headers, a.edited_payload
               from unnest($1::timestamptz[], $2::bigint[]) as l (created, seq)
               join brigade.dead_letter_actions a
                 on (a.dlq_created, a.dlq_seq) = (l.created, l.seq)
               order by a.dlq_created, a.dlq_seq for update of a"#,
            &created,
            &seqs,
            OffsetDateTime::UNIX_EPOCH,
        )
        .fetch_all(&mut *tx)
        .await?;
        for row in rows {
            let claim = Claim {
                number: number_of(row.in_table, row.dlq_seq),
                action: row.action,
                actor: row.actor,
                done_at: row.done_at,
                job: row.job,
                edited_headers: row.edited_headers,
                edited_payload: row.edited_payload,
            };
            let entry = open(entries).find(|entry| entry.number() == claim.number);
            if let (Some(entry), Some(result)) = (entry, claim.decides(action)) {
                entry.result = Some(result);
            }
        }
        Ok(())
    }

    /// Deletes claims whose actions had no effect.
    pub(super) async fn delete_claims(
        &self,
        tx: &mut PgConnection,
        numbers: &[Number],
    ) -> Result<()> {
        let (created, seqs) = self.keys(numbers);
        sqlx::query!(
            "delete from brigade.dead_letter_actions where (dlq_created, dlq_seq)
                 in (select * from unnest($1::timestamptz[], $2::bigint[]))",
            &created,
            &seqs,
        )
        .execute(tx)
        .await?;
        Ok(())
    }

    /// Records that claimed actions are completed.
    pub(super) async fn complete(&self, tx: &mut PgConnection, numbers: &[Number]) -> Result<()> {
        let (created, seqs) = self.keys(numbers);
        sqlx::query!(
            "update brigade.dead_letter_actions set done_at = clock_timestamp()
             where (dlq_created, dlq_seq)
                 in (select * from unnest($1::timestamptz[], $2::bigint[]))",
            &created,
            &seqs,
        )
        .execute(tx)
        .await?;
        Ok(())
    }
}

impl Claim {
    /// Returns what it makes of an action; nothing if that may go on.
    fn decides(&self, action: &Action<'_>) -> Option<ActionResult> {
        let Self { number, actor, .. } = self;
        if let Some(at) = self.done_at {
            if PlantedBug::DeadLetterReplayedTwice.is_planted() {
                return None;
            }
            // A job that was interrupted before it counted this one.
            if self.job.is_some() && self.job == action.job {
                return Some(ActionResult::Done);
            }
            let at = Timestamp::from(at);
            let why = format!("dead letter {number} was {} by {actor} at {at}", done(&self.action));
            return Some(ActionResult::DoneBefore(why));
        }
        let edited = action.edited.map(|edited| headers_as_json(&edited.headers));
        let payload = action.edited.map(|edited| &edited.payload[..]);
        let is_same = self.action == action.kind.as_str()
            && self.edited_headers == edited
            && self.edited_payload.as_deref() == payload;
        let what = if self.edited_headers.is_some() { "replay as edited" } else { &self.action };
        let why = format!("dead letter {number}: a {what} by {actor} is under way");
        (!is_same).then(|| ActionResult::Refused(Refused::gap(why)))
    }
}
