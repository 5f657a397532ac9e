//! Dead letters, as an operator works with them: list, replay, drop.
//!
//! A letter stays in the stream `DLQ` whatever is done with it; what was done stands in
//! `brigade.dead_letter_actions`. An action is claimed there first, so it happens once: a second
//! one of another kind is refused, and one that was interrupted is finished by asking again.

use anyhow::{Context as _, Result, bail};
use async_nats::{
    HeaderMap,
    jetstream::{self, stream::LastRawMessageErrorKind},
};
use brigade_contracts::{Command, Outcome, Refusal, Timestamp, Token, subject};
use bytes::Bytes;
use sqlx::{PgPool, Postgres, Transaction};
use uuid::Uuid;

use crate::{
    outbox_relay::shard_of,
    runtime::{
        dead_letter::{RAW_HEADERS, RAW_HEADERS_IN_PAYLOAD, RAW_SUBJECT},
        delivery::pairs,
    },
};

const STREAM: &str = "DLQ";

/// A dead letter.
#[derive(Clone, Debug)]
pub struct Letter {
    /// Its number in the stream `DLQ`.
    pub sequence: u64,
    pub worker: String,
    /// Where it was sent first.
    pub subject: String,
    pub reason: String,
    pub at: String,
    pub headers: HeaderMap,
    pub payload: Bytes,
    /// What was done with it: `replay` or `drop`.
    pub action: Option<String>,
}

/// Which letters.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    pub worker: Option<String>,
    pub tenant: Option<String>,
    /// Part of the reason.
    pub reason: Option<String>,
    /// Also those that something was done with.
    pub all: bool,
}

/// The stream and the book of what was done.
pub struct DeadLetters {
    js: jetstream::Context,
    postgres: PgPool,
    created: time::OffsetDateTime,
    last: u64,
}

impl DeadLetters {
    /// # Errors
    /// Where the stream cannot be read.
    pub async fn open(js: jetstream::Context, postgres: PgPool) -> Result<Self> {
        let stream = js.get_stream(STREAM).await.context("the stream DLQ cannot be read")?;
        let info = stream.cached_info();
        let (created, last) = (info.created, info.state.last_sequence);
        Ok(Self { js, postgres, created, last })
    }

    /// When the stream was made: its letters count from 1.
    #[must_use]
    pub fn created(&self) -> time::OffsetDateTime {
        self.created
    }

    /// The letters that a filter names, oldest first.
    ///
    /// # Errors
    /// Those of NATS and Postgres.
    pub async fn list(&self, filter: &Filter) -> Result<Vec<Letter>> {
        let stream = self.js.get_stream_no_info(STREAM).await?;
        let subject = format!("dlq.{}.>", filter.worker.as_deref().unwrap_or("*"));
        let mut letters = Vec::new();
        let mut next = 1;
        while next <= self.last {
            let found =
                stream.raw_message_builder().sequence(next).next_by_subject(subject.clone());
            let message = match found.send().await {
                Ok(message) => message,
                Err(error) if matches!(error.kind(), LastRawMessageErrorKind::NoMessageFound) => {
                    break;
                }
                Err(error) => return Err(error.into()),
            };
            next = message.sequence + 1;
            letters.push(letter(message));
        }
        let actions = self.actions().await?;
        for letter in &mut letters {
            letter.action =
                actions.iter().find(|(seq, _)| *seq == letter.sequence).map(|(_, a)| a.clone());
        }
        letters.retain(|letter| filter.matches(letter));
        Ok(letters)
    }

    /// One letter.
    ///
    /// # Errors
    /// Where there is none of this number.
    pub async fn get(&self, sequence: u64) -> Result<Letter> {
        let stream = self.js.get_stream_no_info(STREAM).await?;
        let message = stream.get_raw_message(sequence).await;
        let mut letter = letter(message.with_context(|| format!("no dead letter {sequence}"))?);
        let actions = self.actions().await?;
        letter.action = actions.into_iter().find(|(seq, _)| *seq == sequence).map(|(_, a)| a);
        Ok(letter)
    }

    /// Sends a command again, or puts an event back into the outbox.
    ///
    /// # Errors
    /// Where it was replayed or dropped before, or cannot be sent.
    pub async fn replay(&self, letter: &Letter, actor: &str) -> Result<()> {
        let raw = [RAW_HEADERS, RAW_HEADERS_IN_PAYLOAD, RAW_SUBJECT];
        if let Some(raw) = raw.into_iter().find(|name| letter.headers.get(*name).is_some()) {
            bail!("its bytes are kept as {raw} and can be sent by no client: drop it");
        }
        let mut tx = self.postgres.begin().await?;
        self.claim(&mut tx, letter, "replay", None, actor).await?;
        if letter.subject.starts_with("evt.") {
            back_to_outbox(&mut tx, letter).await?;
            self.done(&mut tx, letter).await?;
            return Ok(tx.commit().await?);
        }
        if !letter.subject.starts_with("cmd.") {
            bail!("{} is neither a command nor an event: it cannot be replayed", letter.subject);
        }
        // Sent while the claim is locked: a second operator waits for it and then sees it done. If
        // this one dies before the commit the letter is as it was, and sending it once more is
        // what its Command-Id bears.
        let headers = original_headers(&letter.headers);
        let sent =
            self.js.publish_with_headers(letter.subject.clone(), headers, letter.payload.clone());
        sent.await?.await.context("the stream did not take it")?;
        self.done(&mut tx, letter).await?;
        Ok(tx.commit().await?)
    }

    /// Gives a letter up. A command that has no outcome yet gets `500 dropped`.
    ///
    /// # Errors
    /// Where it was replayed or dropped before.
    pub async fn drop(&self, letter: &Letter, reason: &str, actor: &str) -> Result<()> {
        let mut tx = self.postgres.begin().await?;
        self.claim(&mut tx, letter, "drop", Some(reason), actor).await?;
        let headers = pairs(Some(&letter.headers));
        if let Ok(command) = Command::decode(&letter.subject, headers, &letter.payload) {
            let refusal = Refusal::new(500, "dropped", format!("dropped by an operator: {reason}"));
            let outcome = Outcome::refused(&command, refusal, None);
            sqlx::query!(
                "insert into brigade.command_inbox
                     (tenant, command_id, subject, payload_hash, outcome, actor, decided_at)
                 values ($1, $2, $3, $4, $5::text::json, $6, clock_timestamp())
                 on conflict (tenant, command_id) do nothing",
                command.tenant.as_str(),
                command.command_id.as_str(),
                letter.subject,
                &command.payload_hash[..],
                serde_json::to_string(&outcome)?,
                command.actor.as_ref().map(Token::as_str),
            )
            .execute(&mut *tx)
            .await?;
        }
        self.done(&mut tx, letter).await?;
        Ok(tx.commit().await?)
    }

    async fn actions(&self) -> Result<Vec<(u64, String)>> {
        let rows = sqlx::query!(
            "select dlq_seq, action from brigade.dead_letter_actions
             where dlq_created = $1 and done_at is not null",
            self.created,
        )
        .fetch_all(&self.postgres)
        .await?;
        Ok(rows.into_iter().map(|row| (row.dlq_seq.cast_unsigned(), row.action)).collect())
    }

    async fn claim(
        &self,
        tx: &mut Transaction<'_, Postgres>,
        letter: &Letter,
        action: &str,
        reason: Option<&str>,
        actor: &str,
    ) -> Result<()> {
        sqlx::query!(
            "insert into brigade.dead_letter_actions
                 (dlq_created, dlq_seq, action, subject, reason, actor)
             values ($1, $2, $3, $4, $5, $6)
             on conflict (dlq_created, dlq_seq) do nothing",
            self.created,
            letter.sequence.cast_signed(),
            action,
            letter.subject,
            reason,
            actor,
        )
        .execute(&mut **tx)
        .await?;
        let found = sqlx::query!(
            "select action, actor, done_at from brigade.dead_letter_actions
             where dlq_created = $1 and dlq_seq = $2 for update",
            self.created,
            letter.sequence.cast_signed(),
        )
        .fetch_one(&mut **tx)
        .await?;
        match found.done_at {
            Some(at) => bail!(
                "dead letter {}: {} by {} at {}",
                letter.sequence,
                found.action,
                found.actor,
                Timestamp::from(at)
            ),
            None if found.action != action => {
                bail!(
                    "dead letter {}: a {} by {} is under way",
                    letter.sequence,
                    found.action,
                    found.actor
                )
            }
            None => Ok(()),
        }
    }

    async fn done(&self, tx: &mut Transaction<'_, Postgres>, letter: &Letter) -> Result<()> {
        sqlx::query!(
            "update brigade.dead_letter_actions set done_at = clock_timestamp()
             where dlq_created = $1 and dlq_seq = $2",
            self.created,
            letter.sequence.cast_signed(),
        )
        .execute(&mut **tx)
        .await?;
        Ok(())
    }
}

impl Filter {
    fn matches(&self, letter: &Letter) -> bool {
        let tenant = letter.subject.split('.').nth(1);
        (self.all || letter.action.is_none())
            && self.tenant.as_deref().is_none_or(|wanted| tenant == Some(wanted))
            && self.reason.as_deref().is_none_or(|part| letter.reason.contains(part))
    }
}

fn letter(message: async_nats::jetstream::message::StreamMessage) -> Letter {
    let header = |name: &str| {
        message.headers.get(name).map(|value| value.as_str().to_owned()).unwrap_or_default()
    };
    Letter {
        sequence: message.sequence,
        worker: message.subject.split('.').nth(1).unwrap_or_default().to_owned(),
        subject: header("Origin-Subject"),
        reason: header("Dead-Reason"),
        at: header("Dead-At"),
        headers: message.headers.clone(),
        payload: message.payload,
        action: None,
    }
}

/// The headers as the producer sent them: without what dead-lettering added, and without the id by
/// which the stream would take it for the first one.
fn original_headers(headers: &HeaderMap) -> HeaderMap {
    let mut original = HeaderMap::new();
    let ours = |name: &str| ["Dead-", "Origin-", "Nats-"].iter().any(|p| name.starts_with(p));
    for (name, value) in pairs(Some(headers)).filter(|(name, _)| !ours(name)) {
        original.append(name, value);
    }
    original
}

/// An event is repeated under `<event id>.<n>`, where n is its new place in the queue.
async fn back_to_outbox(tx: &mut Transaction<'_, Postgres>, letter: &Letter) -> Result<()> {
    let (address, _) = subject::parse_event(&letter.subject).context("not an event's subject")?;
    let id = letter.headers.get("ce-id").context("the event has no id")?;
    let id: Uuid = id.as_str().parse().context("the event's id is not one of ours")?;
    let inserted = sqlx::query!(
        "insert into brigade.outbox (shard, seq, event_seq, event_id, again)
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
