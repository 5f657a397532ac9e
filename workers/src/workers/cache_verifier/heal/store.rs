//! Heals in SQL, in the table `heals`.

use sqlx::{PgConnection, PgPool, types::Json};

use super::step::{HealPosition, HealStep};
use crate::infra::{Context, postgres::bounded};

/// Finished heals are kept this long, in days.
const RETENTION: i32 = 30;

/// A heal that is not finished.
#[derive(Debug)]
pub struct Heal {
    pub id: i64,
    pub reason: String,
    pub steps: Json<Vec<HealStep>>,
    pub position: Json<HealPosition>,
    /// Entries that it has put into the heal backlog.
    pub aggregates: i64,
    /// Rows that it has put into the outbox.
    pub events: i64,
}

impl Heal {
    /// Returns the step under way; `None` if all are done.
    pub fn step(&self) -> Option<&HealStep> {
        self.steps.get(self.position.step)
    }
}

/// The result of a batch.
#[derive(Clone, Copy, Debug, Default)]
pub struct HealProgress {
    pub walked: i64,
    pub aggregates: i64,
    pub events: i64,
}

/// Adds a heal, after all that are there. One with the same steps that has not begun covers it;
/// with `join`, one that has begun as well. Returns its number.
///
/// # Errors
/// If Postgres refuses the statement.
pub async fn add(
    postgres: &mut PgConnection,
    reason: &str,
    steps: &[HealStep],
    join: bool,
) -> sqlx::Result<i64> {
    sqlx::query_scalar!(
        r#"with there as (
               select id from brigade.heals
               where finished_at is null and steps = $2 and (began_at is null or $4)
               order by id limit 1
           ), added as (
               insert into brigade.heals (reason, steps, position)
               select $1, $2, $3 where not exists (select from there)
               returning id
           )
           select id as "id!" from there union all select id from added"#,
        reason,
        Json(steps) as _,
        Json(HealPosition::default()) as _,
        join,
    )
    .fetch_one(postgres)
    .await
}

/// Loads the first heal that is not finished, and how many there are.
///
/// # Errors
/// If Postgres refuses the statement.
pub async fn load_first(postgres: &PgPool) -> sqlx::Result<(Option<Heal>, i64)> {
    let (heal, count) = bounded(postgres, async |connection| {
        let heal = sqlx::query_as!(
            Heal,
            r#"select id, reason, steps as "steps: Json<Vec<HealStep>>",
                      position as "position: Json<HealPosition>", aggregates, events
               from brigade.heals where finished_at is null order by id limit 1"#,
        );
        let heal = heal.fetch_optional(&mut **connection).await?;
        let count = sqlx::query_scalar!(
            r#"select count(*) as "count!" from brigade.heals where finished_at is null"#
        );
        Ok((heal, count.fetch_one(&mut **connection).await?))
    })
    .await?;
    Ok((heal, count))
}

/// Returns true if a heal is not finished.
///
/// # Errors
/// If Postgres refuses the statement.
pub async fn is_under_way(cx: &Context) -> sqlx::Result<bool> {
    bounded(&cx.postgres, async |connection| {
        sqlx::query_scalar!(
            r#"select exists (select from brigade.heals where finished_at is null) as "any!""#
        )
        .fetch_one(&mut **connection)
        .await
    })
    .await
}

/// Saves what a batch has done and where the heal is now. Returns false if another instance has
/// gone on meanwhile.
///
/// # Errors
/// If Postgres refuses the statement.
pub async fn save(
    postgres: &mut PgConnection,
    heal: &Heal,
    next: &HealPosition,
    progress: HealProgress,
) -> sqlx::Result<bool> {
    let saved = sqlx::query!(
        "update brigade.heals
         set position = $3, walked = walked + $4, aggregates = aggregates + $5,
             events = events + $6, began_at = coalesce(began_at, clock_timestamp()),
             finished_at = case when $7 then clock_timestamp() end
         where id = $1 and position = $2 and finished_at is null",
        heal.id,
        &heal.position as _,
        Json(next) as _,
        progress.walked,
        progress.aggregates,
        progress.events,
        next.step >= heal.steps.len(),
    )
    .execute(postgres)
    .await?;
    Ok(saved.rows_affected() > 0)
}

/// Deletes heals that were finished 30 days ago.
///
/// # Errors
/// If Postgres refuses the statement.
pub async fn delete_old(postgres: &PgPool) -> sqlx::Result<()> {
    bounded(postgres, async |connection| {
        sqlx::query!(
            "delete from brigade.heals
             where finished_at < clock_timestamp() - make_interval(days => $1)",
            RETENTION,
        )
        .execute(&mut **connection)
        .await
    })
    .await?;
    Ok(())
}
