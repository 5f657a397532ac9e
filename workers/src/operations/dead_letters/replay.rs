//! Replays letters: a command is sent again, an event goes back to the outbox.

use anyhow::{Context as _, Result, bail};
use async_nats::{HeaderMap, jetstream::context::PublishErrorKind};
use brigade_contracts::{Token, header, shard_of, subject};
use sqlx::{Postgres, Transaction};
use uuid::Uuid;

use super::{
    DeadLetters, Letter,
    claim::{Action, done},
};
use crate::{
    operations::tenants,
    runtime::{
        dead_letter::{RAW_HEADERS, RAW_HEADERS_IN_PAYLOAD, RAW_SUBJECT, name_as_sent},
        delivery::pairs,
    },
    workers::command_handler::housekeeping::OUTCOME_DAYS,
};

impl DeadLetters {
    /// Sends a command again, or puts an event back into the outbox.
    ///
    /// # Errors
    /// If it was replayed or dropped before, cannot be sent, or might be done twice.
    pub async fn replay(&self, letter: &Letter, actor: &str) -> Result<()> {
        let replayed = self.claim_and_replay(letter, None, actor).await;
        replayed.and(self.remove_completed().await)
    }

    /// Does the same with a command that was decided since, or may have been; the archive keeps
    /// why.
    ///
    /// # Errors
    /// If it was replayed or dropped before, or cannot be sent.
    pub async fn force(&self, letter: &Letter, why: &str, actor: &str) -> Result<()> {
        let replayed = self.claim_and_replay(letter, Some(why), actor).await;
        replayed.and(self.remove_completed().await)
    }

    /// Checks whether a letter may be replayed, and changes nothing.
    ///
    /// # Errors
    /// If it may not be.
    pub async fn check_replay(&self, letter: &Letter, force: bool) -> Result<()> {
        if let Some(action) = &letter.action {
            bail!("it was {} before", done(action));
        }
        self.check_possible(letter).await?;
        if force { Ok(()) } else { self.check_undecided(letter).await }
    }

    async fn claim_and_replay(
        &self,
        letter: &Letter,
        force: Option<&str>,
        actor: &str,
    ) -> Result<()> {
        // The claim says of one that is done with who did it, and when.
        if letter.action.is_none() {
            self.check_possible(letter).await?;
        }
        let payload = self.payload(letter.number).await?;
        let mut tx = self.postgres.begin().await?;
        let action = Action { kind: "replay", reason: force, actor };
        let claimed = self.claim(&mut tx, letter, &payload, &action).await?;
        if letter.subject.starts_with("evt.") {
            put_into_outbox(&mut tx, letter).await?;
            self.complete(&mut tx, letter).await?;
            return Ok(tx.commit().await?);
        }
        // An interrupted replay may have caused the outcome.
        if claimed && force.is_none() {
            self.check_undecided(letter).await?;
        }
        tx.commit().await?;
        // Sent while the claim is locked: a second operator waits for it and then finds it
        // completed. If this one dies before the commit the claim stays, and its Command-Id makes
        // it safe to send it once more.
        let mut tx = self.postgres.begin().await?;
        self.lock_claim(&mut tx, letter, action.kind).await?;
        let headers = original_headers(&letter.headers);
        let sent = async {
            self.js.publish_with_headers(letter.subject.clone(), headers, payload).await?.await
        };
        if let Err(error) = sent.await {
            let unknown = [PublishErrorKind::TimedOut, PublishErrorKind::BrokenPipe];
            if !unknown.contains(&error.kind()) {
                self.delete_claim(&mut tx, letter).await?;
                tx.commit().await?;
            }
            return Err(error).context("the stream did not take it");
        }
        self.complete(&mut tx, letter).await?;
        Ok(tx.commit().await?)
    }

    /// Refuses what would become a dead letter again however often it is sent.
    async fn check_possible(&self, letter: &Letter) -> Result<()> {
        let raw = [RAW_HEADERS, RAW_HEADERS_IN_PAYLOAD, RAW_SUBJECT];
        if let Some(raw) = raw.into_iter().find(|name| letter.headers.get(*name).is_some()) {
            bail!("its bytes are kept as {raw} and can be sent by no client: drop it");
        }
        if letter.subject.starts_with("evt.") {
            return Ok(());
        }
        if !letter.subject.starts_with("cmd.") {
            bail!("{} is neither a command nor an event: it cannot be replayed", letter.subject);
        }
        if let Some(gone) = letter.payload_gone() {
            bail!("its payload was not kept ({gone}): have it sent again, then drop this");
        }
        let remedy = "send it again as it should be, then drop this";
        match letter.decode(b"") {
            Err(refusal) if refusal.code == "wrong_tenant" => bail!(
                "{}, which had no right to send it: it is never sent again, drop it",
                refusal.message
            ),
            Err(refusal) => bail!("{}: {remedy}", refusal.message),
            Ok(command) => self.check_served(&command.tenant).await?,
        }
        let mut letters = [letter.clone()];
        self.add_outcomes(&mut letters).await?;
        if let Some(other) = &letters[0].id_belongs_to {
            bail!(
                "its Command-Id belongs to another command ({other}): send it again under a new \
                 Command-Id, then drop this"
            );
        }
        Ok(())
    }

    /// Refuses a command of a tenant that is not served: it would come back at once.
    async fn check_served(&self, tenant: &Token) -> Result<()> {
        match tenants::get(&self.postgres, tenant).await?.state.as_str() {
            "suspended" => bail!(
                "{tenant} is suspended, and it would become a dead letter again at once: `brigade \
                 tenants resume {tenant}` first"
            ),
            "removed" => bail!(
                "{tenant} was removed, and it would become a dead letter again at once: `brigade \
                 tenants add {tenant} --restore` first, or drop it"
            ),
            _ => Ok(()),
        }
    }

    /// Refuses a command that has its outcome, or may have had one that is deleted by now.
    async fn check_undecided(&self, letter: &Letter) -> Result<()> {
        let mut letters = [letter.clone()];
        self.add_outcomes(&mut letters).await?;
        if let Some(status) = letters[0].outcome {
            bail!("its Command-Id has the outcome {status} by now: drop it, or force it");
        }
        let forgotten = sqlx::query_scalar!(
            r#"select $1 < clock_timestamp() - make_interval(days => $2) as "forgotten!""#,
            letter.stored_at,
            OUTCOME_DAYS,
        );
        if letter.command().is_some() && forgotten.fetch_one(&self.postgres).await? {
            bail!(
                "it is older than {OUTCOME_DAYS} days, so long outcomes are kept: it may have been \
                 done since; drop it, or force it"
            );
        }
        Ok(())
    }
}

/// Returns the headers as the producer sent them: without those of the dead letter, and without the
/// id by which the stream would take it for the first one.
fn original_headers(headers: &HeaderMap) -> HeaderMap {
    let mut original = HeaderMap::new();
    for (name, value) in pairs(Some(headers)) {
        if let Some(name) = name_as_sent(name) {
            original.append(name, value);
        }
    }
    original
}

/// Publishes an event once more, under `<event id>.<n>`, where n is its new place in the queue.
async fn put_into_outbox(tx: &mut Transaction<'_, Postgres>, letter: &Letter) -> Result<()> {
    let header = |name: &str| letter.headers.get(name).map(|value| value.as_str());
    let (address, _) = subject::parse_event(&letter.subject, header(header::CE_SUBJECT))
        .context("not an event's subject and ce-subject")?;
    let id = header(header::CE_ID).context("the event has no id")?;
    let id: Uuid = id.parse().context("the event's id is not one of ours")?;
    let inserted = sqlx::query!(
        "insert into brigade.outbox (shard, seq, event_seq, event_id, republication)
         select $2, next.seq, e.seq, e.event_id, (next.seq % 2147483647)::int
         from brigade.events e, (select nextval('brigade.events_seq_seq') as seq) next
         where (e.tenant, e.aggregate, e.id, e.event_id) = ($3, $4, $5, $1)",
        id,
        i16::from(shard_of(&address)),
        address.tenant.as_str(),
        address.aggregate.as_str(),
        address.id.as_str(),
    )
    .execute(&mut **tx)
    .await?
    .rows_affected();
    if inserted == 0 {
        bail!("{} {id} is not an event that was ever committed: drop it", letter.subject);
    }
    Ok(())
}
