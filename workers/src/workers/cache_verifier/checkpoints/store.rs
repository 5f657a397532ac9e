//! Checkpoints in SQL, in the table `stream_checkpoints`.

use std::collections::HashMap;

use sqlx::{PgConnection, PgPool};
use time::OffsetDateTime;

use super::StreamCheckpoint;
use crate::infra::postgres::bounded;

/// Checkpoints are kept this long, in seconds.
const RETENTION: f64 = 24.0 * 60.0 * 60.0;

/// Loads the database's clock, and the last checkpoint of each stream.
///
/// # Errors
/// If Postgres refuses the statement.
pub async fn load_latest(
    postgres: &PgPool,
    streams: &[String],
) -> sqlx::Result<(OffsetDateTime, HashMap<String, StreamCheckpoint>)> {
    let rows = bounded(postgres, async |connection| {
        sqlx::query!(
            r#"select clock_timestamp() as "now!", wanted.stream as "stream!",
                      m.taken_at as "taken_at?", m.created as "created?",
                      m.server_id as "server_id?", m.first_seq as "first_seq?",
                      m.last_seq as "last_seq?", m.messages as "messages?",
                      m.first_at as "first_at?", m.last_at as "last_at?", m.canary as "canary?"
               from unnest($1::text[]) as wanted (stream)
               left join lateral (
                   select * from brigade.stream_checkpoints c where c.stream = wanted.stream
                   order by taken_at desc limit 1
               ) m on true"#,
            streams,
        )
        .fetch_all(&mut **connection)
        .await
    })
    .await?;
    let now = rows.first().map(|row| row.now).ok_or(sqlx::Error::RowNotFound)?;
    let checkpoints = rows.into_iter().filter_map(|row| {
        let checkpoint = StreamCheckpoint {
            taken_at: row.taken_at?,
            created: row.created?,
            server_id: row.server_id?,
            first_seq: row.first_seq?.cast_unsigned(),
            last_seq: row.last_seq?.cast_unsigned(),
            messages: row.messages?.cast_unsigned(),
            first_at: row.first_at?,
            // An earlier version wrote none: as young as it can be.
            last_at: row.last_at.or(row.taken_at)?,
            canary: row.canary.map(i64::cast_unsigned),
            max_age: None,
        };
        Some((row.stream, checkpoint))
    });
    Ok((now, checkpoints.collect()))
}

/// Saves the checkpoints of streams, after which earlier losses do not show any more.
///
/// # Errors
/// If Postgres refuses the statement.
pub async fn save(
    postgres: &mut PgConnection,
    checkpoints: &[(&str, &StreamCheckpoint)],
    now: OffsetDateTime,
) -> sqlx::Result<()> {
    let streams: Vec<&str> = checkpoints.iter().map(|(stream, _)| *stream).collect();
    let created = column(checkpoints, |checkpoint| checkpoint.created.as_str());
    let server_ids = column(checkpoints, |checkpoint| checkpoint.server_id.as_str());
    let canaries = column(checkpoints, |checkpoint| checkpoint.canary.map(u64::cast_signed));
    sqlx::query!(
        "insert into brigade.stream_checkpoints
             (stream, taken_at, created, server_id, first_seq, last_seq, messages, first_at,
              last_at, canary)
         select stream, $10, created, server_id, first_seq, last_seq, messages, first_at,
                last_at, canary
         from unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::bigint[],
                     $6::bigint[], $7::timestamptz[], $8::timestamptz[], $9::bigint[])
              as seen (stream, created, server_id, first_seq, last_seq, messages, first_at,
                       last_at, canary)
         on conflict (stream, taken_at) do nothing",
        &streams as _,
        &created as _,
        &server_ids as _,
        &column(checkpoints, |checkpoint| checkpoint.first_seq.cast_signed()),
        &column(checkpoints, |checkpoint| checkpoint.last_seq.cast_signed()),
        &column(checkpoints, |checkpoint| checkpoint.messages.cast_signed()),
        &column(checkpoints, |checkpoint| checkpoint.first_at),
        &column(checkpoints, |checkpoint| checkpoint.last_at),
        &canaries as _,
        now,
    )
    .execute(postgres)
    .await?;
    Ok(())
}

/// Returns one field of all checkpoints as a column for SQL.
fn column<'a, T>(
    checkpoints: &[(&str, &'a StreamCheckpoint)],
    field: impl Fn(&'a StreamCheckpoint) -> T,
) -> Vec<T> {
    checkpoints.iter().map(|(_, checkpoint)| field(checkpoint)).collect()
}

/// Deletes checkpoints older than a day, but of no stream the last one.
///
/// # Errors
/// If Postgres refuses the statement.
pub async fn delete_old(postgres: &PgPool, streams: &[String]) -> sqlx::Result<()> {
    bounded(postgres, async |connection| {
        sqlx::query!(
            "delete from brigade.stream_checkpoints c
             using unnest($1::text[]) as kept (stream)
             where c.stream = kept.stream
               and c.taken_at < clock_timestamp() - make_interval(secs => $2)
               and c.taken_at < (select max(taken_at) from brigade.stream_checkpoints last
                                    where last.stream = kept.stream)",
            streams,
            RETENTION,
        )
        .execute(&mut **connection)
        .await
    })
    .await?;
    Ok(())
}
