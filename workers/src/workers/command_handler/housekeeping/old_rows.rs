//! Deletes old rows, a bounded number in one statement, so that no transaction is long.

use brigade_domain::user::WINDOW;

use crate::infra::{Context, health::Duty, postgres::bounded};

/// Outcomes are kept this long, in days: a repeated command is recognised for this time.
pub const OUTCOME_DAYS: i32 = 30;
/// Dead letters are kept this long after they were replayed or dropped, in days.
const RESOLVED_DAYS: i32 = 30;
/// Session events are kept this long, in days: events are stored, and so repeated or healed, for 7.
const ACTIVITY_DAYS: i32 = 30;
/// Rows of the security log are kept this long, in days. They may hold emails and addresses.
const SECURITY_DAYS: i32 = 90;
/// Most statements that delete session events in a round; they delete more than a fleet commits in
/// the meantime.
const MAX_ACTIVITY_STATEMENTS: usize = 50;
/// Most rows that one statement deletes.
const AT_ONCE: i64 = 1000;

/// Deletes outcomes that are older than [`OUTCOME_DAYS`].
///
/// # Errors
/// If Postgres refuses.
pub(super) async fn delete_outcomes(cx: &Context, duty: &Duty) -> sqlx::Result<()> {
    loop {
        let deleted = bounded(&cx.postgres, async |connection| {
            sqlx::query_file!(
                "src/workers/command_handler/housekeeping/forget_outcomes.sql",
                OUTCOME_DAYS,
                AT_ONCE
            )
            .execute(&mut **connection)
            .await
        });
        let deleted = deleted.await?.rows_affected();
        duty.moved();
        if deleted > 0 {
            tracing::info!(worker = %cx.worker, deleted, "old outcomes deleted");
        }
        if deleted < AT_ONCE.cast_unsigned() || cx.drain.is_cancelled() {
            return Ok(());
        }
    }
}

/// Deletes the failed logins that do not count any more.
///
/// # Errors
/// If Postgres refuses.
pub(super) async fn delete_login_failures(cx: &Context) -> sqlx::Result<()> {
    bounded(&cx.postgres, async |connection| {
        sqlx::query!(
            "delete from brigade.login_failures
             where at < statement_timestamp() - make_interval(secs => $1)",
            WINDOW.as_secs_f64(),
        )
        .execute(&mut **connection)
        .await
    })
    .await?;
    Ok(())
}

/// Deletes dead letters that were replayed or dropped more than [`RESOLVED_DAYS`] ago.
///
/// # Errors
/// If Postgres refuses.
pub(super) async fn delete_dead_letters(cx: &Context) -> sqlx::Result<()> {
    loop {
        let deleted = bounded(&cx.postgres, async |connection| {
            sqlx::query!(
                "delete from brigade.dead_letter_actions where ctid = any (array (
                     select ctid from brigade.dead_letter_actions
                     where left_at < statement_timestamp() - make_interval(days => $1)
                     limit $2
                 ))",
                RESOLVED_DAYS,
                AT_ONCE,
            )
            .execute(&mut **connection)
            .await
        });
        if deleted.await?.rows_affected() < AT_ONCE.cast_unsigned() || cx.drain.is_cancelled() {
            return Ok(());
        }
    }
}

/// Deletes jobs that ended more than [`RESOLVED_DAYS`] ago, their letters first.
///
/// # Errors
/// If Postgres refuses.
pub(super) async fn delete_dead_letter_jobs(cx: &Context) -> sqlx::Result<()> {
    loop {
        let deleted = bounded(&cx.postgres, async |connection| {
            sqlx::query!(
                "delete from brigade.dead_letter_job_items where (job, position) in (
                     select i.job, i.position from brigade.dead_letter_jobs j
                     join brigade.dead_letter_job_items i on i.job = j.id
                     where j.ended_at < statement_timestamp() - make_interval(days => $1)
                     limit $2
                 )",
                RESOLVED_DAYS,
                AT_ONCE,
            )
            .execute(&mut **connection)
            .await
        });
        if deleted.await?.rows_affected() < AT_ONCE.cast_unsigned() {
            break;
        }
        if cx.drain.is_cancelled() {
            return Ok(());
        }
    }
    bounded(&cx.postgres, async |connection| {
        sqlx::query!(
            "delete from brigade.dead_letter_jobs j
             where ended_at < statement_timestamp() - make_interval(days => $1)
               and not exists (select from brigade.dead_letter_job_items where job = j.id)",
            RESOLVED_DAYS,
        )
        .execute(&mut **connection)
        .await
    })
    .await?;
    Ok(())
}

/// Deletes the counts of dead letters that were not kept, [`RESOLVED_DAYS`] after the last letter.
/// There are about a hundred of a tenant at most.
///
/// # Errors
/// If Postgres refuses.
pub(super) async fn delete_dead_letter_overflow(cx: &Context) -> sqlx::Result<()> {
    bounded(&cx.postgres, async |connection| {
        sqlx::query!(
            "delete from brigade.dead_letter_overflow
             where last_at < statement_timestamp() - make_interval(days => $1)",
            RESOLVED_DAYS,
        )
        .execute(&mut **connection)
        .await
    })
    .await?;
    Ok(())
}

/// Deletes old rows of `user_activity`. Ids of events grow with time, so the oldest ones are the
/// first by key, and no statement reads more rows than it may delete.
///
/// # Errors
/// If Postgres refuses.
pub(super) async fn delete_activity(cx: &Context, duty: &Duty) -> sqlx::Result<()> {
    for _ in 0..MAX_ACTIVITY_STATEMENTS {
        let deleted = bounded(&cx.postgres, async |connection| {
            sqlx::query!(
                "delete from brigade.user_activity where event_id = any (array (
                     select event_id from (
                         select event_id, at from brigade.user_activity order by event_id limit $2
                     ) oldest
                     where at < statement_timestamp() - make_interval(days => $1)
                 ))",
                ACTIVITY_DAYS,
                AT_ONCE,
            )
            .execute(&mut **connection)
            .await
        });
        let deleted = deleted.await?.rows_affected();
        duty.moved();
        if deleted < AT_ONCE.cast_unsigned() || cx.drain.is_cancelled() {
            break;
        }
    }
    Ok(())
}

/// Deletes old rows of the security log. They are numbered as they come, so the oldest ones are the
/// first by key, and no statement reads more rows than it may delete.
///
/// # Errors
/// If Postgres refuses.
pub(super) async fn delete_security_log(cx: &Context, duty: &Duty) -> sqlx::Result<()> {
    loop {
        let deleted = bounded(&cx.postgres, async |connection| {
            sqlx::query!(
                "delete from brigade.security_log where seq = any (array (
                     select seq from (
                         select seq, at from brigade.security_log order by seq limit $2
                     ) oldest
                     where at < statement_timestamp() - make_interval(days => $1)
                 ))",
                SECURITY_DAYS,
                AT_ONCE,
            )
            .execute(&mut **connection)
            .await
        });
        let deleted = deleted.await?.rows_affected();
        duty.moved();
        if deleted < AT_ONCE.cast_unsigned() || cx.drain.is_cancelled() {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TestDatabase;

    #[tokio::test]
    async fn old_outcomes_are_found_without_reading_the_young_ones() -> anyhow::Result<()> {
        let database = TestDatabase::start().await?;
        let explain = concat!("explain ", include_str!("forget_outcomes.sql"));
        let plan: Vec<String> = sqlx::query_scalar(explain)
            .bind(OUTCOME_DAYS)
            .bind(AT_ONCE)
            .fetch_all(&database.sql)
            .await?;
        let plan = plan.join("\n");
        assert!(plan.contains("command_inbox_decided_at_idx"), "{plan}");
        Ok(())
    }
}
