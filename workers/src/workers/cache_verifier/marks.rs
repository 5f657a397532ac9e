//! What a stream looks like, and what says that it has lost something.

use std::collections::HashMap;

use anyhow::{Context as _, bail};
use async_nats::jetstream::{
    message::PublishMessage, response::Response, stream::LastRawMessageErrorKind,
};
use brigade_contracts::key::{Bucket, CANARY};
use serde_json::{Value, json};
use sqlx::PgPool;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::infra::{Context, postgres::bounded};

/// `JSStreamNotFoundErr` of nats-server.
const STREAM_NOT_FOUND: u64 = 10059;
/// Of a stream's bytes, in percent.
const HALF: i64 = 50;
/// Marks are kept this long, in seconds.
const KEPT: f64 = 24.0 * 60.0 * 60.0;

/// A stream as it was seen.
#[derive(Clone, Debug, PartialEq)]
pub struct Mark {
    /// On the database's clock, before the stream was looked at.
    pub noted_at: OffsetDateTime,
    pub created: String,
    pub server_id: String,
    pub first_seq: u64,
    pub last_seq: u64,
    pub messages: u64,
    /// Time of the first message.
    pub first_at: OffsetDateTime,
    /// Time of the last message.
    pub last_at: OffsetDateTime,
    /// The sequence of the canary of a bucket.
    pub canary: Option<u64>,
    /// Messages of the stream do not expire before this age.
    pub max_age: Option<time::Duration>,
}

/// What is there now.
#[derive(Clone, Debug)]
pub enum Found {
    Nothing,
    Stream(Mark),
}

/// What says that messages are gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// There is no such stream.
    Missing,
    /// It was made again since.
    MadeAgain,
    /// Everything that stood there is gone.
    Purged,
    /// Its last sequence is below the mark.
    Behind,
    /// A suspicion: its server was started again, and a crash takes what was not synced.
    ServerStarted,
}

impl Loss {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::MadeAgain => "made_again",
            Self::Purged => "purged",
            Self::Behind => "behind",
            Self::ServerStarted => "server_started",
        }
    }

    /// Whether it is one to a stream of this name. From `TIMERS` the server itself takes what has
    /// fired, which looks like a purge, and it is synced to disk; a lock whose timer is gone all the
    /// same is found by cart-lock-expiry. From `COMMANDS` goes what is decided, from `DLQ` what is
    /// settled, often all of it at once. `KV_attempts` has no canary: one message that fails alone
    /// overwrites all of it each time, and what is gone from it nobody brings back.
    pub fn counts_for(self, stream: &str) -> bool {
        match stream {
            "TIMERS" => !matches!(self, Self::Purged | Self::ServerStarted),
            "COMMANDS" | "DLQ" => self != Self::Purged,
            "KV_attempts" => matches!(self, Self::Missing | Self::MadeAgain),
            _ => true,
        }
    }

    /// Whether nothing that stood there can be relied on; else only the newest may be gone.
    pub fn is_whole(self) -> bool {
        matches!(self, Self::Missing | Self::MadeAgain | Self::Purged)
    }
}

/// Compares a stream with its last mark. Without one only its absence is a loss.
pub fn loss(mark: Option<&Mark>, found: &Found, one_server: bool) -> Option<Loss> {
    let found = match found {
        Found::Nothing => return Some(Loss::Missing),
        Found::Stream(found) => found,
    };
    let mark = mark?;
    if found.created != mark.created {
        Some(Loss::MadeAgain)
    } else if is_emptied(mark, found) || is_cut(mark, found) {
        Some(Loss::Purged)
    } else if found.last_seq < mark.last_seq {
        Some(Loss::Behind)
    } else if one_server && found.server_id != mark.server_id {
        Some(Loss::ServerStarted)
    } else {
        None
    }
}

/// Whether everything that stood in a stream is gone. Of a bucket its canary tells: all of its keys
/// may have been overwritten, or have expired. A canary that stands elsewhere was put there again.
fn is_emptied(mark: &Mark, found: &Mark) -> bool {
    match mark.canary {
        Some(canary) => found.canary != Some(canary),
        None => {
            mark.messages > 0
                && found.first_seq > mark.last_seq
                && !has_expired(mark.last_at, found)
        }
    }
}

/// Whether the beginning of a stream that forgets by age alone is gone before its time.
fn is_cut(mark: &Mark, found: &Mark) -> bool {
    found.max_age.is_some()
        && mark.messages > 0
        && found.first_seq > mark.first_seq
        && !has_expired(mark.first_at, found)
}

/// Whether a message of that time may be gone by its age, on clocks that may differ.
fn has_expired(at: OffsetDateTime, found: &Mark) -> bool {
    let slack = time::Duration::minutes(1);
    found.max_age.is_some_and(|age| at + age <= found.noted_at + slack)
}

/// Asks the server for a stream, at this time of the database. Puts the canary of a bucket where there
/// is none: by another sequence than the mark's it tells of the loss until a mark is noted.
///
/// # Errors
/// Where it gives no answer, or another connection took over meanwhile.
pub async fn look(cx: &Context, name: &str, now: OffsetDateTime) -> anyhow::Result<Found> {
    let server_id = cx.nats.client.server_info().server_id;
    let connection = cx.nats.connections();
    let request = json!({});
    let asked = cx.nats.jetstream.request(format!("STREAM.INFO.{name}"), &request);
    let info: Value = match asked.await.with_context(|| format!("no answer about {name}"))? {
        Response::Ok(info) => info,
        Response::Err { error } if error.error_code().0 == STREAM_NOT_FOUND => {
            return Ok(Found::Nothing);
        }
        Response::Err { error } => bail!("{name}: {error}"),
    };
    let bucket = Bucket::ALL.into_iter().find(|b| b.has_canary() && b.stream() == name);
    let canary = match bucket {
        Some(bucket) => Some(canary(cx, bucket).await?),
        None => None,
    };
    if connection != cx.nats.connections() {
        bail!("connected again in between");
    }
    let (state, config) = (&info["state"], &info["config"]);
    let number = |field: &str| state[field].as_u64().unwrap_or(0);
    if let Some(most) = config["max_bytes"].as_i64().filter(|most| *most > 0) {
        tell_how_full(cx, name, number("bytes").cast_signed().saturating_mul(100) / most);
    }
    let time = |field: &str| {
        let at = OffsetDateTime::parse(state[field].as_str()?, &Rfc3339).ok();
        at.filter(|at| at.year() > 1)
    };
    // Commands are purged when they are decided, and keys overwritten: only EVENTS forgets by age
    // alone.
    let by_age = name == "EVENTS";
    let max_age = config["max_age"].as_i64().filter(|age| by_age && *age > 0);
    Ok(Found::Stream(Mark {
        noted_at: now,
        created: info["created"].as_str().context("no creation time")?.to_owned(),
        server_id,
        first_seq: number("first_seq"),
        last_seq: number("last_seq"),
        messages: number("messages"),
        first_at: time("first_ts").unwrap_or(OffsetDateTime::UNIX_EPOCH),
        last_at: time("last_ts").unwrap_or(OffsetDateTime::UNIX_EPOCH),
        canary,
        max_age: max_age.map(time::Duration::nanoseconds),
    }))
}

/// Tells how much of a stream's bytes are taken, and warns once when it comes to be half of them:
/// what is done leaves by itself before.
fn tell_how_full(cx: &Context, stream: &str, percent: i64) {
    let gauge = cx.metrics.stream_filled.with_label_values(&[stream]);
    if gauge.get() < HALF && percent >= HALF {
        tracing::error!(worker = %cx.worker, stream, percent, "the stream fills");
    }
    gauge.set(percent);
}

/// The sequence of a bucket's canary, which is put there where there is none. It holds nothing, so
/// that whoever watches the bucket takes it for no value.
async fn canary(cx: &Context, bucket: Bucket) -> anyhow::Result<u64> {
    let (subject, js) = (bucket.subject(CANARY), &cx.nats.jetstream);
    let stream = js.get_stream_no_info(bucket.stream()).await?;
    match stream.get_last_raw_message_by_subject(&subject).await {
        Ok(message) => return Ok(message.sequence),
        Err(error) if matches!(error.kind(), LastRawMessageErrorKind::NoMessageFound) => {}
        Err(error) => return Err(error.into()),
    }
    // Another instance may just have put one there.
    let message = PublishMessage::build().expected_last_subject_sequence(0);
    Ok(js.send_publish(subject, message).await?.await?.sequence)
}

/// The database's clock, and the last mark of each stream.
///
/// # Errors
/// Those of Postgres.
pub async fn read(
    postgres: &PgPool,
    streams: &[String],
) -> sqlx::Result<(OffsetDateTime, HashMap<String, Mark>)> {
    let rows = bounded(postgres, async |connection| {
        sqlx::query!(
        r#"select clock_timestamp() as "now!", asked.stream as "stream!", m.noted_at as "noted_at?",
                  m.created as "created?", m.server_id as "server_id?", m.first_seq as "first_seq?",
                  m.last_seq as "last_seq?", m.messages as "messages?", m.first_at as "first_at?",
                  m.last_at as "last_at?", m.canary as "canary?"
           from unnest($1::text[]) as asked (stream)
           left join lateral (
               select * from brigade.stream_marks mark where mark.stream = asked.stream
               order by noted_at desc limit 1
           ) m on true"#,
        streams,
    )
    .fetch_all(&mut **connection)
.await
    })
    .await?;
    let now = rows.first().map(|row| row.now).ok_or(sqlx::Error::RowNotFound)?;
    let marks = rows.into_iter().filter_map(|row| {
        let mark = Mark {
            noted_at: row.noted_at?,
            created: row.created?,
            server_id: row.server_id?,
            first_seq: row.first_seq?.cast_unsigned(),
            last_seq: row.last_seq?.cast_unsigned(),
            messages: row.messages?.cast_unsigned(),
            first_at: row.first_at?,
            // An earlier version noted none: as young as it can be.
            last_at: row.last_at.or(row.noted_at)?,
            canary: row.canary.map(i64::cast_unsigned),
            max_age: None,
        };
        Some((row.stream, mark))
    });
    Ok((now, marks.collect()))
}

/// Notes what was found as good.
///
/// # Errors
/// Those of Postgres.
pub async fn note(
    postgres: &PgPool,
    marks: &[(&str, &Mark)],
    now: OffsetDateTime,
) -> sqlx::Result<()> {
    let text = |f: fn(&Mark) -> &str| marks.iter().map(|(_, m)| f(m)).collect::<Vec<_>>();
    let number =
        |f: fn(&Mark) -> u64| marks.iter().map(|(_, m)| f(m).cast_signed()).collect::<Vec<_>>();
    let streams: Vec<&str> = marks.iter().map(|(name, _)| *name).collect();
    let time = |f: fn(&Mark) -> OffsetDateTime| marks.iter().map(|(_, m)| f(m)).collect::<Vec<_>>();
    let canaries: Vec<Option<i64>> =
        marks.iter().map(|(_, mark)| mark.canary.map(u64::cast_signed)).collect();
    bounded(postgres, async |connection| {
        sqlx::query!(
            "insert into brigade.stream_marks
             (stream, noted_at, created, server_id, first_seq, last_seq, messages, first_at, last_at,
              canary)
         select stream, $10, created, server_id, first_seq, last_seq, messages, first_at, last_at,
                canary
         from unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::bigint[], $6::bigint[],
                     $7::timestamptz[], $8::timestamptz[], $9::bigint[])
              as seen (stream, created, server_id, first_seq, last_seq, messages, first_at, last_at,
                       canary)
         on conflict (stream, noted_at) do nothing",
            &streams as _,
            &text(|m| &m.created) as _,
            &text(|m| &m.server_id) as _,
            &number(|m| m.first_seq),
            &number(|m| m.last_seq),
            &number(|m| m.messages),
            &time(|m| m.first_at),
            &time(|m| m.last_at),
            &canaries as _,
            now,
        )
        .execute(&mut **connection)
        .await
    })
    .await?;
    Ok(())
}

/// Deletes marks older than a day, but of no stream the last one.
///
/// # Errors
/// Those of Postgres.
pub async fn tidy(postgres: &PgPool, streams: &[String]) -> sqlx::Result<()> {
    bounded(postgres, async |connection| {
        sqlx::query!(
            "delete from brigade.stream_marks mark
         using unnest($1::text[]) as kept (stream)
         where mark.stream = kept.stream
           and mark.noted_at < clock_timestamp() - make_interval(secs => $2)
           and mark.noted_at < (select max(noted_at) from brigade.stream_marks last
                                where last.stream = kept.stream)",
            streams,
            KEPT,
        )
        .execute(&mut **connection)
        .await
    })
    .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark() -> Mark {
        Mark {
            noted_at: OffsetDateTime::UNIX_EPOCH + time::Duration::hours(1),
            created: "then".to_owned(),
            server_id: "server".to_owned(),
            first_seq: 10,
            last_seq: 20,
            messages: 5,
            first_at: OffsetDateTime::UNIX_EPOCH,
            last_at: OffsetDateTime::UNIX_EPOCH + time::Duration::minutes(30),
            canary: None,
            max_age: None,
        }
    }

    #[test]
    fn each_loss_is_told_from_the_last_mark() {
        let found = |change: fn(&mut Mark)| {
            let mut found = mark();
            found.last_seq = 25;
            change(&mut found);
            loss(Some(&mark()), &Found::Stream(found), true)
        };
        assert_eq!(found(|_| {}), None);
        assert_eq!(found(|m| m.first_seq = 20), None, "keys that were overwritten");
        assert_eq!(found(|m| m.first_seq = 21), Some(Loss::Purged));
        assert_eq!(found(|m| m.created = "later".into()), Some(Loss::MadeAgain));
        assert_eq!(found(|m| m.last_seq = 19), Some(Loss::Behind));
        assert_eq!(found(|m| m.server_id = "other".into()), Some(Loss::ServerStarted));
        let other = Mark { server_id: "other".into(), ..mark() };
        assert_eq!(loss(Some(&mark()), &Found::Stream(other), false), None, "in a cluster");
        assert_eq!(loss(None, &Found::Nothing, true), Some(Loss::Missing));
        assert_eq!(loss(None, &Found::Stream(mark()), true), None);
        let empty = Mark { messages: 0, ..mark() };
        let first = Mark { first_seq: 21, ..mark() };
        assert_eq!(loss(Some(&empty), &Found::Stream(first), true), None, "nothing to lose");
    }

    #[test]
    fn a_bucket_is_purged_when_its_canary_is_gone_and_not_when_its_keys_were_overwritten() {
        let loss = |canary| {
            let before = Mark { canary: Some(3), ..mark() };
            let found = Mark { first_seq: 25, last_seq: 25, canary, ..mark() };
            loss(Some(&before), &Found::Stream(found), true)
        };
        assert_eq!(loss(Some(3)), None, "every other key was overwritten");
        assert_eq!(loss(Some(25)), Some(Loss::Purged), "it was put there again");
        assert_eq!(loss(None), Some(Loss::Purged));
    }

    #[test]
    fn what_is_done_and_gone_is_no_loss() {
        let streams = ["EVENTS", "TIMERS", "COMMANDS", "DLQ", "KV_attempts"];
        let counts = |loss: Loss| streams.map(|stream| loss.counts_for(stream));
        assert_eq!(counts(Loss::Missing), [true; 5]);
        assert_eq!(counts(Loss::MadeAgain), [true; 5]);
        assert_eq!(counts(Loss::Behind), [true, true, true, true, false]);
        assert_eq!(counts(Loss::Purged), [true, false, false, false, false]);
        assert_eq!(counts(Loss::ServerStarted), [true, false, true, true, false]);
    }

    #[test]
    fn what_is_gone_by_age_is_no_loss() {
        let loss = |first_seq, minutes| {
            let max_age = Some(time::Duration::minutes(minutes));
            let found = Mark { first_seq, last_seq: 20, max_age, ..mark() };
            loss(Some(&mark()), &Found::Stream(found), true)
        };
        assert_eq!(loss(15, 60), None, "the first ones, after an hour");
        assert_eq!(loss(15, 120), Some(Loss::Purged));
        assert_eq!(loss(21, 30), None, "all of them: the last one is half an hour old");
        assert_eq!(loss(21, 60), Some(Loss::Purged));
    }
}
