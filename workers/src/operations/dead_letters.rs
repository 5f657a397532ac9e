//! Dead letters, as an operator works with them: list, replay, drop.
//!
//! A letter stands in the stream `DLQ`, or in `brigade.dead_letters` where the stream did not take
//! it, until something was done with it. Then it stands, whole, in the **archive**
//! `brigade.dead_letter_actions` with who did what, for 30 days.
//!
//! An action is claimed in the archive first, so it happens once: a second one of another kind is
//! refused, and one that was interrupted is finished by asking again. Last of all the letter is
//! taken away from where it stood; whatever is done next finishes that as well.

use std::{collections::HashMap, fmt, str::FromStr};

use anyhow::{Context as _, Result, bail};
use async_nats::{
    HeaderMap,
    jetstream::{
        self,
        context::PublishErrorKind,
        stream::{LastRawMessageErrorKind, RawMessageErrorKind},
    },
};
use brigade_contracts::{Command, Outcome, Refusal, Timestamp, Token, header, shard_of, subject};
use bytes::Bytes;
use sqlx::{PgPool, Postgres, Transaction};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::{
    runtime::{
        dead_letter::{RAW_HEADERS, RAW_HEADERS_IN_PAYLOAD, RAW_SUBJECT, headers_as_json},
        delivery::pairs,
    },
    workers::command_handler::{housekeeping::OUTCOME_DAYS, is_outcome_of},
};

const STREAM: &str = "DLQ";

/// What a letter is called: `17` in the stream, `sql-17` in the table of those that the stream did
/// not take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Number {
    Stream(u64),
    Table(u64),
}

/// A dead letter, without its payload.
#[derive(Clone, Debug)]
pub struct Letter {
    pub number: Number,
    pub worker: String,
    /// Where it was sent first.
    pub subject: String,
    pub reason: String,
    pub at: String,
    pub headers: HeaderMap,
    /// When it was stored, by the clock of the server that holds it.
    pub stored_at: OffsetDateTime,
    /// What was done with it: `replay` or `drop`.
    pub action: Option<String>,
    /// The status of the outcome that it has by now.
    pub outcome: Option<i32>,
    /// Another command that was decided under its Command-Id: `<aggregate>.<id>.<verb>`.
    pub id_belongs_to: Option<String>,
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

/// Where letters stand, and the archive.
pub struct DeadLetters {
    js: jetstream::Context,
    postgres: PgPool,
    created: OffsetDateTime,
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
    pub fn created(&self) -> OffsetDateTime {
        self.created
    }

    /// The letters that a filter names, oldest first: those of the stream, then those of the table.
    ///
    /// # Errors
    /// Those of NATS and Postgres.
    pub async fn list(&self, filter: &Filter) -> Result<Vec<Letter>> {
        let mut letters = self.in_stream(filter.worker.as_deref()).await?;
        letters.extend(self.in_table(None).await?.into_iter().map(|(letter, _)| letter));
        let mut archived = self.archived(None).await?;
        for letter in &mut letters {
            // Done with, but not taken away yet.
            letter.action = archived.remove(&letter.number).and_then(|done| done.action);
        }
        letters.extend(archived.into_values());
        letters.sort_by_key(|letter| letter.number);
        letters.retain(|letter| filter.matches(letter));
        self.add_outcomes(&mut letters).await?;
        Ok(letters)
    }

    /// One letter, also of the archive.
    ///
    /// # Errors
    /// Where there is none of this number.
    pub async fn get(&self, number: Number) -> Result<Letter> {
        let archived = self.archived(Some(number)).await?.remove(&number);
        let letter = match archived {
            Some(letter) => Some(letter),
            None => self.standing(number).await?.map(|(letter, _)| letter),
        };
        let mut letters = [letter.with_context(|| format!("no dead letter {number}"))?];
        self.add_outcomes(&mut letters).await?;
        let [letter] = letters;
        Ok(letter)
    }

    /// The payload of a letter, also of the archive.
    ///
    /// # Errors
    /// Where there is none of this number.
    pub async fn payload(&self, number: Number) -> Result<Bytes> {
        if let Some((_, payload)) = self.standing(number).await? {
            return Ok(payload);
        }
        let (created, seq) = self.key(number);
        let payload = sqlx::query_scalar!(
            "select payload from brigade.dead_letter_actions
             where dlq_created = $1 and dlq_seq = $2",
            created,
            seq,
        )
        .fetch_optional(&self.postgres)
        .await?;
        Ok(payload.flatten().with_context(|| format!("no dead letter {number}"))?.into())
    }

    /// Sends a command again, or puts an event back into the outbox.
    ///
    /// # Errors
    /// Where it was replayed or dropped before, cannot be sent, or might be done twice.
    pub async fn replay(&self, letter: &Letter, actor: &str) -> Result<()> {
        let done = self.do_replay(letter, None, actor).await;
        done.and(self.take_away().await)
    }

    /// The same with a command that was decided since, or may have been; the archive keeps why.
    ///
    /// # Errors
    /// Where it was replayed or dropped before, or cannot be sent.
    pub async fn force(&self, letter: &Letter, why: &str, actor: &str) -> Result<()> {
        let done = self.do_replay(letter, Some(why), actor).await;
        done.and(self.take_away().await)
    }

    async fn do_replay(&self, letter: &Letter, force: Option<&str>, actor: &str) -> Result<()> {
        self.can_be_replayed(letter).await?;
        let payload = self.payload(letter.number).await?;
        let mut tx = self.postgres.begin().await?;
        let claimed = self.claim(&mut tx, letter, &payload, ("replay", force), actor).await?;
        if letter.subject.starts_with("evt.") {
            back_to_outbox(&mut tx, letter).await?;
            self.done(&mut tx, letter).await?;
            return Ok(tx.commit().await?);
        }
        // A replay that was interrupted may be what it was decided by.
        if claimed && force.is_none() {
            self.would_be_done_once(letter).await?;
        }
        tx.commit().await?;
        // Sent while the claim is locked: a second operator waits for it and then sees it done. If
        // this one dies before the commit the claim stands, and sending it once more is what its
        // Command-Id bears.
        let mut tx = self.postgres.begin().await?;
        self.hold(&mut tx, letter, "replay").await?;
        let headers = original_headers(&letter.headers);
        let sent = async {
            self.js.publish_with_headers(letter.subject.clone(), headers, payload).await?.await
        };
        if let Err(error) = sent.await {
            let unknown = [PublishErrorKind::TimedOut, PublishErrorKind::BrokenPipe];
            if !unknown.contains(&error.kind()) {
                self.unclaim(&mut tx, letter).await?;
                tx.commit().await?;
            }
            return Err(error).context("the stream did not take it");
        }
        self.done(&mut tx, letter).await?;
        Ok(tx.commit().await?)
    }

    /// Gives a letter up. A command that has no outcome yet gets `500 dropped`.
    ///
    /// # Errors
    /// Where it was replayed or dropped before.
    pub async fn drop(&self, letter: &Letter, reason: &str, actor: &str) -> Result<()> {
        let done = self.do_drop(letter, reason, actor).await;
        done.and(self.take_away().await)
    }

    async fn do_drop(&self, letter: &Letter, reason: &str, actor: &str) -> Result<()> {
        let payload = self.payload(letter.number).await?;
        let mut tx = self.postgres.begin().await?;
        self.claim(&mut tx, letter, &payload, ("drop", Some(reason)), actor).await?;
        if let Ok(command) = letter.decoded(&payload) {
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

    /// Takes away what something was done with and what still stands in the stream or the table,
    /// after the archive has it whole.
    ///
    /// # Errors
    /// Those of NATS and Postgres; asking again goes on with the rest.
    pub async fn take_away(&self) -> Result<()> {
        // A stream that is gone took its letters with it.
        sqlx::query!(
            "update brigade.dead_letter_actions set left_at = clock_timestamp()
             where done_at is not null and left_at is null and dlq_created <> all ($1)",
            &[self.created, OffsetDateTime::UNIX_EPOCH],
        )
        .execute(&self.postgres)
        .await?;
        let rows = sqlx::query!(
            r#"select dlq_seq, dlq_created = $1 as "in_table!", payload is not null as "whole!"
               from brigade.dead_letter_actions where done_at is not null and left_at is null"#,
            OffsetDateTime::UNIX_EPOCH,
        )
        .fetch_all(&self.postgres)
        .await?;
        for row in rows {
            let seq = row.dlq_seq.cast_unsigned();
            let number = if row.in_table { Number::Table(seq) } else { Number::Stream(seq) };
            if !row.whole {
                self.archive(number).await?;
            }
            match number {
                Number::Stream(seq) => self.delete_from_stream(seq).await?,
                Number::Table(_) => {
                    sqlx::query!("delete from brigade.dead_letters where number = $1", row.dlq_seq)
                        .execute(&self.postgres)
                        .await?;
                }
            }
            let (created, seq) = self.key(number);
            sqlx::query!(
                "update brigade.dead_letter_actions set left_at = clock_timestamp()
                 where dlq_created = $1 and dlq_seq = $2",
                created,
                seq,
            )
            .execute(&self.postgres)
            .await?;
        }
        Ok(())
    }

    async fn delete_from_stream(&self, sequence: u64) -> Result<()> {
        let stream = self.js.get_stream_no_info(STREAM).await?;
        let deleted = stream.delete_message(sequence).await;
        // By somebody else, or by a run that did not get to note it.
        if deleted.is_err() && self.standing(Number::Stream(sequence)).await?.is_none() {
            return Ok(());
        }
        deleted.with_context(|| format!("dead letter {sequence} is still in the stream"))?;
        Ok(())
    }

    /// Completes a row of the time when letters stayed in the stream.
    async fn archive(&self, number: Number) -> Result<()> {
        let Some((letter, payload)) = self.standing(number).await? else { return Ok(()) };
        let (created, seq) = self.key(number);
        sqlx::query!(
            "update brigade.dead_letter_actions
             set worker = $3, headers = $4::text::json, payload = $5
             where dlq_created = $1 and dlq_seq = $2",
            created,
            seq,
            letter.worker,
            headers_as_json(&letter.headers),
            &payload[..],
        )
        .execute(&self.postgres)
        .await?;
        Ok(())
    }

    /// Of the stream by time of its making, of the table by none.
    fn key(&self, number: Number) -> (OffsetDateTime, i64) {
        match number {
            Number::Stream(seq) => (self.created, seq.cast_signed()),
            Number::Table(seq) => (OffsetDateTime::UNIX_EPOCH, seq.cast_signed()),
        }
    }

    /// A letter where it stands, with its payload.
    async fn standing(&self, number: Number) -> Result<Option<(Letter, Bytes)>> {
        let Number::Stream(sequence) = number else {
            return Ok(self.in_table(Some(number)).await?.pop());
        };
        let stream = self.js.get_stream_no_info(STREAM).await?;
        match stream.get_raw_message(sequence).await {
            Ok(message) => {
                let payload = message.payload.clone();
                Ok(Some((letter_of(message), payload)))
            }
            Err(error) if matches!(error.kind(), RawMessageErrorKind::NoMessageFound) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    async fn in_stream(&self, worker: Option<&str>) -> Result<Vec<Letter>> {
        let stream = self.js.get_stream_no_info(STREAM).await?;
        let subject = format!("dlq.{}.>", worker.unwrap_or("*"));
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
            letters.push(letter_of(message));
        }
        Ok(letters)
    }

    /// All of the table without their payloads, or one whole.
    async fn in_table(&self, number: Option<Number>) -> Result<Vec<(Letter, Bytes)>> {
        let rows = sqlx::query!(
            r#"select number, subject, headers::text as "headers!", stored_at,
                      case when number = $1 then payload end as payload
               from brigade.dead_letters where $1::bigint is null or number = $1 order by number"#,
            number.map(|number| self.key(number).1),
        )
        .fetch_all(&self.postgres)
        .await?;
        let read = |(number, subject, headers, stored_at, payload): (i64, String, String, _, _)| {
            let number = Number::Table(number.cast_unsigned());
            let letter = letter(number, worker_of(&subject), headers_of(&headers)?, stored_at);
            anyhow::Ok((letter, Option::<Vec<u8>>::unwrap_or_default(payload).into()))
        };
        rows.into_iter()
            .map(|row| read((row.number, row.subject, row.headers, row.stored_at, row.payload)))
            .collect()
    }

    /// What something was done with, all or one. Of the stream as it is now: the numbers of another
    /// one mean other letters.
    async fn archived(&self, number: Option<Number>) -> Result<HashMap<Number, Letter>> {
        let (created, seq) = number.map(|number| self.key(number)).unzip();
        let rows = sqlx::query!(
            r#"select dlq_seq, dlq_created = $2 as "in_table!", action, subject, claimed_at,
                      coalesce(worker, '') as "worker!", coalesce(headers::text, '[]') as "headers!"
               from brigade.dead_letter_actions
               where done_at is not null and dlq_created in ($1, $2)
                 and ($3::timestamptz is null or (dlq_created, dlq_seq) = ($3, $4))"#,
            self.created,
            OffsetDateTime::UNIX_EPOCH,
            created,
            seq,
        )
        .fetch_all(&self.postgres)
        .await?;
        let mut letters = HashMap::new();
        for row in rows {
            let seq = row.dlq_seq.cast_unsigned();
            let number = if row.in_table { Number::Table(seq) } else { Number::Stream(seq) };
            let (headers, at) = (headers_of(&row.headers)?, row.claimed_at);
            let archived = letter(number, &row.worker, headers, at);
            let (subject, action) = (row.subject, Some(row.action));
            letters.insert(number, Letter { subject, action, ..archived });
        }
        Ok(letters)
    }

    /// Adds the outcomes that commands have by now.
    async fn add_outcomes(&self, letters: &mut [Letter]) -> Result<()> {
        let commands: Vec<_> = letters.iter().filter_map(Letter::command).collect();
        let (tenants, ids): (Vec<_>, Vec<_>) = commands.into_iter().unzip();
        let rows = sqlx::query!(
            r#"select tenant as "tenant!", command_id as "command_id!", subject, payload_hash,
                      (outcome ->> 'status')::int as "status!"
               from unnest($1::text[], $2::text[]) as asked (tenant, command_id)
               join brigade.command_inbox using (tenant, command_id)"#,
            &tenants as _,
            &ids as _,
        )
        .fetch_all(&self.postgres)
        .await?;
        let known: HashMap<_, _> = rows
            .into_iter()
            .map(|row| ((row.tenant.clone(), row.command_id.clone()), row))
            .collect();
        for letter in letters {
            (letter.outcome, letter.id_belongs_to) = (None, None);
            let Some((tenant, id)) = letter.command() else { continue };
            let Some(row) = known.get(&(tenant.to_owned(), id.to_owned())) else { continue };
            let target = row.subject.splitn(3, '.').nth(2).unwrap_or_default();
            // The door does not count; payloads are fetched only where they decide.
            if letter.subject.splitn(3, '.').nth(2) != Some(target) {
                letter.id_belongs_to = Some(target.to_owned());
            } else if letter.is_of(
                &row.subject,
                &row.payload_hash,
                &self.payload(letter.number).await?,
            ) {
                letter.outcome = Some(row.status);
            } else {
                letter.id_belongs_to = Some(format!("{target}, another payload"));
            }
        }
        Ok(())
    }

    /// Checks whether a letter may be replayed, and does nothing.
    ///
    /// # Errors
    /// Why not.
    pub async fn check_replay(&self, letter: &Letter, force: bool) -> Result<()> {
        self.can_be_replayed(letter).await?;
        if force { Ok(()) } else { self.would_be_done_once(letter).await }
    }

    /// Refuses what would come back however often it is sent.
    async fn can_be_replayed(&self, letter: &Letter) -> Result<()> {
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
        let remedy = "send it again as it should be, then drop this";
        if let Err(refusal) = letter.decoded(b"") {
            bail!("{}: {remedy}", refusal.message);
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

    /// Refuses a command that has its outcome, or may have had one that is forgotten.
    async fn would_be_done_once(&self, letter: &Letter) -> Result<()> {
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

    /// Claims an action, and says whether it was not claimed before.
    async fn claim(
        &self,
        tx: &mut Transaction<'_, Postgres>,
        letter: &Letter,
        payload: &[u8],
        (action, reason): (&str, Option<&str>),
        actor: &str,
    ) -> Result<bool> {
        let (created, seq) = self.key(letter.number);
        let claimed = sqlx::query!(
            "insert into brigade.dead_letter_actions
                 (dlq_created, dlq_seq, action, subject, reason, actor, worker, headers, payload)
             values ($1, $2, $3, $4, $5, $6, $7, $8::text::json, $9)
             on conflict (dlq_created, dlq_seq) do nothing",
            created,
            seq,
            action,
            letter.subject,
            reason,
            actor,
            letter.worker,
            headers_as_json(&letter.headers),
            payload,
        )
        .execute(&mut **tx)
        .await?
        .rows_affected();
        self.hold(tx, letter, action).await?;
        Ok(claimed == 1)
    }

    /// Locks a claim, and refuses where it is another one's or done.
    async fn hold(
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
            Some(at) => {
                let at = Timestamp::from(at);
                bail!("dead letter {number}: {} by {} at {at}", found.action, found.actor)
            }
            None if found.action != action => {
                bail!("dead letter {number}: a {} by {} is under way", found.action, found.actor)
            }
            None => Ok(()),
        }
    }

    /// Takes a claim back: nothing was done.
    async fn unclaim(&self, tx: &mut Transaction<'_, Postgres>, letter: &Letter) -> Result<()> {
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

    async fn done(&self, tx: &mut Transaction<'_, Postgres>, letter: &Letter) -> Result<()> {
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

impl Filter {
    fn matches(&self, letter: &Letter) -> bool {
        let tenant = letter.subject.split('.').nth(1);
        (self.all || letter.action.is_none())
            && self.worker.as_deref().is_none_or(|wanted| letter.worker == wanted)
            && self.tenant.as_deref().is_none_or(|wanted| tenant == Some(wanted))
            && self.reason.as_deref().is_none_or(|part| letter.reason.contains(part))
    }
}

impl Letter {
    /// Tenant and Command-Id of a command.
    fn command(&self) -> Option<(&str, &str)> {
        let tenant = self.subject.strip_prefix("cmd.")?.split('.').next()?;
        let mut headers = pairs(Some(&self.headers));
        let id = headers.find(|(name, _)| name.eq_ignore_ascii_case(header::COMMAND_ID))?;
        Some((tenant, id.1))
    }

    fn decoded(&self, payload: &[u8]) -> Result<Command, Refusal> {
        Command::decode(&self.subject, pairs(Some(&self.headers)), payload)
    }

    /// Whether a stored outcome is that of this command.
    fn is_of(&self, subject: &str, payload_hash: &[u8], payload: &[u8]) -> bool {
        self.decoded(payload).is_ok_and(|command| is_outcome_of(&command, subject, payload_hash))
    }
}

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stream(number) => f.pad(&number.to_string()),
            Self::Table(number) => f.pad(&format!("sql-{number}")),
        }
    }
}

impl FromStr for Number {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.strip_prefix("sql-") {
            Some(number) => number.parse().map(Self::Table),
            None => text.parse().map(Self::Stream),
        }
    }
}

fn letter_of(message: jetstream::message::StreamMessage) -> Letter {
    let number = Number::Stream(message.sequence);
    letter(number, worker_of(&message.subject), message.headers, message.time)
}

fn letter(number: Number, worker: &str, headers: HeaderMap, stored_at: OffsetDateTime) -> Letter {
    let header =
        |name: &str| headers.get(name).map(|value| value.as_str().to_owned()).unwrap_or_default();
    Letter {
        number,
        worker: worker.to_owned(),
        subject: header("Origin-Subject"),
        reason: header("Dead-Reason"),
        at: header("Dead-At"),
        headers,
        stored_at,
        action: None,
        outcome: None,
        id_belongs_to: None,
    }
}

/// The worker of a `dlq.<worker>.<original subject>`.
fn worker_of(subject: &str) -> &str {
    subject.split('.').nth(1).unwrap_or_default()
}

fn headers_of(json: &str) -> Result<HeaderMap> {
    let pairs: Vec<(String, String)> = serde_json::from_str(json).context("no headers")?;
    let mut headers = HeaderMap::new();
    for (name, value) in pairs {
        headers.append(name, value);
    }
    Ok(headers)
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
    let header = |name: &str| letter.headers.get(name).map(|value| value.as_str());
    let (address, _) = subject::parse_event(&letter.subject, header(header::CE_SUBJECT))
        .context("not an event's subject and ce-subject")?;
    let id = header(header::CE_ID).context("the event has no id")?;
    let id: Uuid = id.parse().context("the event's id is not one of ours")?;
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
