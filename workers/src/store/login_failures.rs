//! Failed logins in SQL, which slow guessing down.

use brigade_contracts::{Timestamp, Token};
use brigade_domain::user::{Count, FailureKey, Throttle, WINDOW};
use serde::Serialize;
use sqlx::{PgConnection, PgExecutor};

use super::rows::to_rows;

/// A row of `brigade.login_failures`; one without a time stands for all of its key.
#[derive(Serialize)]
struct LoginFailureRow<'a> {
    tenant: &'a Token,
    kind: &'static str,
    key: &'a str,
    at: Option<Timestamp>,
}

/// Counts how often each of these keys has failed within [`WINDOW`], by the database's clock, whose
/// time it returns as well. There has to be a key.
///
/// # Errors
/// If Postgres refuses the statement.
pub async fn count(
    executor: impl PgExecutor<'_>,
    keys: &[FailureKey],
) -> sqlx::Result<(Timestamp, Vec<(FailureKey, Count)>)> {
    let column = |f: fn(&FailureKey) -> &str| keys.iter().map(f).collect::<Vec<_>>();
    let rows = sqlx::query!(
        r#"select count(f.at) as "failures!", min(f.at) as oldest, max(f.at) as latest,
                  clock_timestamp() as "now!"
           from unnest($1::text[], $2::text[], $3::text[])
                with ordinality as requested (tenant, kind, key, place)
           left join brigade.login_failures f
               on (f.tenant, f.kind, f.key) = (requested.tenant, requested.kind, requested.key)
              and f.at > clock_timestamp() - make_interval(secs => $4)
           group by requested.place order by requested.place"#,
        &column(|key| key.tenant.as_str()) as _,
        &column(|key| key.kind.as_str()) as _,
        &column(|key| key.key.as_str()) as _,
        WINDOW.as_secs_f64(),
    )
    .fetch_all(executor)
    .await?;
    let now = rows.first().ok_or(sqlx::Error::RowNotFound)?.now.into();
    let counts = rows.into_iter().map(|row| Count {
        failures: u32::try_from(row.failures).unwrap_or(u32::MAX),
        oldest: row.oldest.map(Timestamp::from),
        latest: row.latest.map(Timestamp::from),
    });
    Ok((now, keys.iter().cloned().zip(counts).collect()))
}

/// Saves the failures that a batch adds, after it deletes those that it clears.
///
/// # Errors
/// If Postgres refuses a statement.
pub async fn save(connection: &mut PgConnection, throttle: &Throttle) -> sqlx::Result<()> {
    if !throttle.cleared().is_empty() {
        sqlx::query!(
            "delete from brigade.login_failures f
             using jsonb_populate_recordset(null::brigade.login_failures, $1) as cleared
             where (f.tenant, f.kind, f.key) = (cleared.tenant, cleared.kind, cleared.key)",
            to_rows::<LoginFailureRow<'_>, _>(throttle.cleared()) as _,
        )
        .execute(&mut *connection)
        .await?;
    }
    if !throttle.added().is_empty() {
        sqlx::query!(
            "insert into brigade.login_failures (tenant, kind, key, at)
             select tenant, kind, key, at
             from jsonb_populate_recordset(null::brigade.login_failures, $1)",
            to_rows::<LoginFailureRow<'_>, _>(throttle.added()) as _,
        )
        .execute(connection)
        .await?;
    }
    Ok(())
}

impl<'a> From<&'a FailureKey> for LoginFailureRow<'a> {
    fn from(key: &'a FailureKey) -> Self {
        Self { tenant: &key.tenant, kind: key.kind.as_str(), key: &key.key, at: None }
    }
}

impl<'a> From<&'a (FailureKey, Timestamp)> for LoginFailureRow<'a> {
    fn from((key, at): &'a (FailureKey, Timestamp)) -> Self {
        Self { at: Some(*at), ..Self::from(key) }
    }
}

#[cfg(test)]
mod tests;
