//! Dead letters that the stream `DLQ` did not accept.
//!
//! `brigade.dead_letters` keeps a bounded number of each tenant: the first ones whole, further ones
//! without their payloads. What is beyond is counted in `brigade.dead_letter_overflow`, and a
//! command among it gets the outcome `500 dropped`, so its sender is told.

use async_nats::HeaderMap;
use brigade_contracts::{Command, Outcome, Refusal, Token, header, subject};
use bytes::Bytes;
use sqlx::Connection as _;
use tokio::sync::Mutex;

use super::{PAYLOAD_GONE, PAYLOAD_HASH, hash_of, headers_as_json, one_line};
use crate::{
    infra::{Context, postgres::bounded},
    runtime::metrics::DeadLetterMetrics,
};

/// Letters of a tenant that are kept whole, and the bytes of their payloads.
const MAX_WHOLE: i64 = 1000;
const MAX_WHOLE_BYTES: i64 = 64 * 1024 * 1024;
/// Letters of a tenant that are kept without a payload, and the bytes of their headers as Postgres
/// stores them.
const MAX_WITHOUT_PAYLOAD: i64 = 10_000;
const MAX_HEADER_BYTES: i64 = 64 * 1024 * 1024;
/// Seconds for which a tenant without room is not looked at again: counting that many letters for
/// each further one would take the database from everybody else.
const KNOWN_FULL_SECONDS: f64 = 10.0;
/// Rows of a tenant in the overflow, beside one `other` for each worker.
const MAX_REASONS: i64 = 100;

/// A dead letter that its stream did not accept.
pub(super) struct Rejected<'a> {
    /// The message that it is a copy of, by a name that is its own for all time.
    pub message: String,
    /// Its subject in the stream: `dlq.<worker>.<original subject>`.
    pub letter: String,
    /// The original subject.
    pub subject: &'a str,
    pub reason: &'a str,
    pub headers: HeaderMap,
    pub payload: Bytes,
    pub command: Option<Command>,
}

/// The fields of a letter that are kept.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Room {
    /// It is there already: the message came again.
    Kept,
    Whole,
    WithoutPayload,
    /// Its tenant has no room; `checked` if that was not known from a moment ago.
    None {
        checked: bool,
    },
}

impl Rejected<'_> {
    /// Returns the tenant by whom letters are bounded: '' for letters whose subjects are not made
    /// of Tokens, and `lock` for those of timers, which senders do not make.
    fn tenant(&self) -> &str {
        self.letter.split('.').nth(3).unwrap_or_default()
    }
}

/// Stores a letter, or counts it where its tenant has no room.
///
/// # Errors
/// Those of Postgres.
pub(super) async fn store(cx: &Context, mut rejected: Rejected<'_>) -> sqlx::Result<()> {
    let worker = cx.worker.as_str();
    let room = room(cx, &rejected).await?;
    match room {
        Room::Kept => return Ok(()),
        Room::None { checked } => return count(cx, &rejected, checked).await,
        Room::Whole | Room::WithoutPayload => {}
    }
    let without_payload = room == Room::WithoutPayload && !rejected.payload.is_empty();
    if without_payload {
        leave_out_payload(&mut rejected);
    }
    bounded(&cx.postgres, async |connection| {
        sqlx::query!(
            "insert into brigade.dead_letters (message, subject, headers, payload)
             values ($1, $2, $3::text::json, $4) on conflict (message) do nothing",
            rejected.message,
            rejected.letter,
            headers_as_json(&rejected.headers),
            &rejected.payload[..],
        )
        .execute(&mut **connection)
        .await
    })
    .await?;
    if without_payload {
        let subject = rejected.subject;
        tracing::error!(worker, subject, "SQL is full for its tenant: kept without its payload");
        cx.metrics.group::<DeadLetterMetrics>().without_payload.with_label_values(&[worker]).inc();
    }
    Ok(())
}

/// Returns what is kept of a letter. Two that are stored at the same time may both exceed a bound.
async fn room(cx: &Context, rejected: &Rejected<'_>) -> sqlx::Result<Room> {
    let length = |bytes: usize| i64::try_from(bytes).unwrap_or(i64::MAX / 2);
    let room = bounded(&cx.postgres, async |connection| {
        // A branch is only computed where those before it do not hold.
        sqlx::query_scalar!(
            r#"select case
                   when exists (
                       select from brigade.dead_letters where message = $9
                   ) then 'kept'
                   when exists (
                       select from brigade.dead_letter_overflow
                       where tenant = $1
                         and checked_at > clock_timestamp() - make_interval(secs => $8)
                   ) then 'known to be full'
                   when $2::bigint > 0 and (
                       select count(*) < $3
                              and coalesce(sum(octet_length(payload)), 0) + $2 <= $4
                       from brigade.dead_letters
                       where split_part(subject, '.', 4) = $1 and payload <> ''
                   ) then 'whole'
                   when (
                       select count(*) < $5
                              and coalesce(sum(pg_column_size(headers)), 0) + $6 <= $7
                       from brigade.dead_letters
                       where split_part(subject, '.', 4) = $1 and payload = ''
                   ) then 'without payload'
                   else 'full'
               end as "room!""#,
            rejected.tenant(),
            length(rejected.payload.len()),
            MAX_WHOLE,
            MAX_WHOLE_BYTES,
            MAX_WITHOUT_PAYLOAD,
            length(headers_as_json(&rejected.headers).len()),
            MAX_HEADER_BYTES,
            KNOWN_FULL_SECONDS,
            rejected.message,
        )
        .fetch_one(&mut **connection)
        .await
    });
    Ok(match room.await?.as_str() {
        "kept" => Room::Kept,
        "whole" => Room::Whole,
        "without payload" => Room::WithoutPayload,
        room => Room::None { checked: room == "full" },
    })
}

/// Replaces the payload by headers with its length and its hash.
fn leave_out_payload(rejected: &mut Rejected<'_>) {
    let payload = std::mem::take(&mut rejected.payload);
    let why = "not kept: too many dead letters of this tenant are in SQL";
    rejected.headers.insert(PAYLOAD_GONE, format!("{} bytes, {why}", payload.len()));
    if rejected.headers.get(PAYLOAD_HASH).is_none() {
        rejected.headers.insert(PAYLOAD_HASH, hash_of(&payload));
    }
}

/// Counts a letter that is not kept, and stores the outcome of its command.
async fn count(cx: &Context, rejected: &Rejected<'_>, checked: bool) -> sqlx::Result<()> {
    // They wait for the same row: waiting here takes no connection from those who decide.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());
    let refusal = Refusal::new(
        500,
        "dropped",
        "it failed in all its tries, and too many dead letters of this tenant wait for an operator",
    );
    let outcome = rejected.command.as_ref().map(|c| (c, Outcome::refused(c, refusal, None)));
    let alone = ONE_AT_A_TIME.lock().await;
    let stored = bounded(&cx.postgres, async |connection| {
        let mut tx = connection.begin().await?;
        add_to_count(cx, rejected, checked, &mut tx).await?;
        let mut stored = false;
        if let Some((command, outcome)) = &outcome {
            stored = store_outcome(rejected, command, outcome, &mut tx).await?;
        }
        tx.commit().await?;
        Ok(stored)
    })
    .await?;
    drop(alone);
    let Rejected { message, subject, reason, .. } = rejected;
    let worker = cx.worker.as_str();
    let command_id = rejected.command.as_ref().map(|command| command.command_id.as_str());
    tracing::error!(
        worker,
        subject,
        reason,
        message,
        command_id,
        "SQL is full for its tenant: this dead letter is counted and not kept"
    );
    cx.metrics.group::<DeadLetterMetrics>().not_kept.with_label_values(&[worker]).inc();
    if let Some((command, outcome)) = outcome.filter(|_| stored) {
        publish_outcome(cx, command, &outcome).await;
    }
    Ok(())
}

async fn add_to_count(
    cx: &Context,
    rejected: &Rejected<'_>,
    checked: bool,
    tx: &mut sqlx::PgConnection,
) -> sqlx::Result<()> {
    let reason = rejected.reason.split(':').next().unwrap_or_default();
    let reason: String = one_line(reason).chars().take(100).collect();
    sqlx::query!(
        "with found as (
             select reason from brigade.dead_letter_overflow where (tenant, worker) = ($1, $2)
         ), rows_of_tenant as (
             select count(*) as number from brigade.dead_letter_overflow where tenant = $1
         )
         insert into brigade.dead_letter_overflow as counted
             (tenant, worker, reason, letters, last_subject, last_message)
         select $1, $2,
                case when rows_of_tenant.number < $7 or exists (select from found where reason = $3)
                     then $3 else 'other' end,
                1, $4, $5
         from rows_of_tenant
         on conflict (tenant, worker, reason) do update set
             letters = counted.letters
                 + case when counted.last_message = excluded.last_message then 0 else 1 end,
             last_at = excluded.last_at,
             last_subject = excluded.last_subject,
             last_message = excluded.last_message,
             checked_at = case when $6 then excluded.checked_at else counted.checked_at end",
        rejected.tenant(),
        cx.worker.as_str(),
        reason,
        one_line(rejected.subject),
        rejected.message,
        checked,
        MAX_REASONS,
    )
    .execute(tx)
    .await?;
    Ok(())
}

/// Stores an outcome unless its Command-Id has one, and returns whether it did.
async fn store_outcome(
    rejected: &Rejected<'_>,
    command: &Command,
    outcome: &Outcome,
    tx: &mut sqlx::PgConnection,
) -> sqlx::Result<bool> {
    let outcome = serde_json::to_string(outcome).expect("an outcome is always JSON");
    let stored = sqlx::query!(
        "insert into brigade.command_inbox
             (tenant, command_id, subject, payload_hash, outcome, actor, via, decided_at)
         values ($1, $2, $3, $4, $5::text::json, $6, $7, clock_timestamp())
         on conflict (tenant, command_id) do nothing",
        command.tenant.as_str(),
        command.command_id.as_str(),
        rejected.subject,
        &command.payload_hash[..],
        outcome,
        command.actor.as_ref().map(Token::as_str),
        command.via.as_str(),
    )
    .execute(tx)
    .await?;
    Ok(stored.rows_affected() == 1)
}

/// Publishes an outcome for whoever listens, as that of a command that was decided.
async fn publish_outcome(cx: &Context, command: &Command, outcome: &Outcome) {
    let subject = subject::outcome(&command.tenant, &command.command_id);
    let mut headers = HeaderMap::new();
    headers.insert(header::STATUS, outcome.status.to_string());
    let body = serde_json::to_vec(outcome).expect("an outcome is always JSON");
    let sent = cx.nats.client.publish_with_headers(subject, headers, body.into()).await;
    if let Err(error) = sent {
        tracing::warn!(%error, "an outcome was not published; its sender will ask for it");
    }
}
