//! Deletes what is too old: decided commands in the stream, outcomes in the inbox, failed logins
//! that do not count any more, dead letters that were replayed or dropped, locks of owners long
//! gone, session events that cannot come again, old rows of the security log.
//!
//! One command-handler does it, by a lease. Nothing is lost by doing it late, but a full stream
//! takes no more commands: decided ones are purged by age, and sooner when they fill half of it.

mod above_floor;
mod old_locks;
mod old_rows;
mod purge;
mod stream;

use std::{
    fmt::Display,
    time::{Duration, Instant},
};

use self::{old_locks::OldLocks, purge::PurgeProgress};
use crate::infra::{Context, health::Duty, lease::LeasedRounds};

pub use self::{old_rows::OUTCOME_DAYS, stream::purge};

const LEASE: &str = "command-handler.housekeeping";
/// Interval between two looks at the stream. The second half of it takes longer to fill.
const STREAM_INTERVAL: Duration = Duration::from_secs(1);
/// Interval between two deletions of old rows.
const ROWS_INTERVAL: Duration = Duration::from_secs(60);

/// Does the housekeeping, under the lease, until the drain.
pub async fn keep(cx: Context) {
    let duty = cx.health.duty("housekeeping");
    let mut rounds = LeasedRounds::new(&cx, LEASE, duty).every(STREAM_INTERVAL);
    let (mut progress, mut old_locks) = (PurgeProgress::default(), OldLocks::default());
    let mut rows_due = Instant::now();
    while rounds.begin().await {
        let purged = progress.purge(&cx, rounds.duty()).await;
        if let Err(error) = &purged {
            warn(&cx, "decided commands", &format!("{error:#}"));
        }
        if let Err(error) = old_locks.delete(&cx).await {
            warn(&cx, "old locks", &error);
        }
        if Instant::now() >= rows_due {
            rows_due = Instant::now() + ROWS_INTERVAL;
            delete_rows(&cx, rounds.duty()).await;
        }
        match purged {
            Ok(()) => rounds.succeeded(),
            Err(_) => rounds.blocked(),
        }
    }
}

/// Deletes old rows of each table. A failure at one holds up no other.
async fn delete_rows(cx: &Context, duty: &Duty) {
    if let Err(error) = old_rows::delete_outcomes(cx, duty).await {
        warn(cx, "old outcomes", &error);
    }
    if let Err(error) = old_rows::delete_login_failures(cx).await {
        warn(cx, "old failures of logins", &error);
    }
    if let Err(error) = old_rows::delete_dead_letters(cx).await {
        warn(cx, "old dead letters", &error);
    }
    if let Err(error) = old_rows::delete_dead_letter_jobs(cx).await {
        warn(cx, "old jobs of dead letters", &error);
    }
    if let Err(error) = old_rows::delete_dead_letter_overflow(cx).await {
        warn(cx, "old counts of dead letters", &error);
    }
    if let Err(error) = old_rows::delete_activity(cx, duty).await {
        warn(cx, "old session events", &error);
    }
    if let Err(error) = old_rows::delete_security_log(cx, duty).await {
        warn(cx, "old rows of the security log", &error);
    }
}

fn warn(cx: &Context, rows: &str, error: &dyn Display) {
    tracing::warn!(worker = %cx.worker, %error, "cannot delete {rows}");
}
