//! The notes of what may not stand in KV yet (`brigade.unshown`).
//!
//! A transaction notes what it changed; what was shown afterwards loses its note with the next
//! batch, or alone after [`FLUSH`]. One command-handler, by a lease, shows what is noted for
//! longer than [`OVERDUE`]: whoever should have shown it has died or could not.

use std::{
    collections::HashMap,
    mem,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use brigade_contracts::{Address, Aggregate};
use sqlx::{PgConnection, PgPool};
use tokio::time::{MissedTickBehavior, interval};

use super::show::Show;
use crate::{
    domain::State,
    runtime::Context,
    store::{
        Lease, lease,
        postgres::{Failure, bounded, failure, patient},
        states,
    },
};

/// Notes of shown versions that no batch took along go by themselves after this time.
const FLUSH: Duration = Duration::from_millis(200);
/// A note older than this is shown by the holder of the lease, in seconds.
const OVERDUE: f64 = 1.0;
const LEASE: &str = "command-handler.show";
/// Most notes shown in one go.
const AT_ONCE: i64 = 500;

/// Versions that were shown and are still noted.
#[derive(Default)]
pub struct Notes {
    shown: Mutex<HashMap<Address, u64>>,
}

impl Notes {
    pub fn add(&self, shown: Vec<(Address, u64)>) {
        let mut notes = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        for (address, version) in shown {
            let newest = notes.entry(address).or_default();
            *newest = version.max(*newest);
        }
    }

    /// Takes all of them, sorted, to be deleted.
    pub fn take(&self) -> Vec<(Address, u64)> {
        let mut notes = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        let mut notes: Vec<_> = mem::take(&mut *notes).into_iter().collect();
        notes.sort();
        notes
    }

    /// Those that could not be deleted after all.
    pub fn put_back(&self, shown: Vec<(Address, u64)>) {
        self.add(shown);
    }
}

/// Deletes notes up to the versions that were shown. A note that somebody is just raising is
/// left: it speaks of a newer version. Each is found by its key, whatever the planner believes about
/// a table that is empty at one moment and full at the next; they come sorted.
///
/// # Errors
/// Those of Postgres.
pub async fn delete(postgres: &mut PgConnection, shown: &[(Address, u64)]) -> sqlx::Result<()> {
    if shown.is_empty() {
        return Ok(());
    }
    let text = |f: fn(&Address) -> &str| shown.iter().map(|(a, _)| f(a)).collect::<Vec<_>>();
    let versions: Vec<i64> = shown.iter().map(|(_, version)| version.cast_signed()).collect();
    sqlx::query!(
        "delete from brigade.unshown where ctid = any (array (
             select done.ctid
             from unnest($1::text[], $2::text[], $3::text[], $4::bigint[])
                  as shown (tenant, aggregate, id, version)
             cross join lateral (
                 select note.ctid from brigade.unshown note
                 where (note.tenant, note.aggregate, note.id)
                       = (shown.tenant, shown.aggregate, shown.id)
                   and note.version <= shown.version
                 limit 1 for update skip locked
             ) done
         ))",
        &text(|a| a.tenant.as_str()) as _,
        &text(|a| a.aggregate.as_str()) as _,
        &text(|a| a.id.as_str()) as _,
        &versions,
    )
    .execute(postgres)
    .await?;
    Ok(())
}

/// Deletes leftover notes and, under the lease, shows what is overdue, until the drain.
pub async fn keep(cx: Context, show: Arc<Show>, notes: Arc<Notes>) {
    let mut tick = interval(FLUSH);
    let mut look = interval(lease::RENEW);
    let mut most = AT_ONCE;
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let done = tokio::select! {
            _ = tick.tick() => flush(&cx.postgres, &notes).await,
            _ = look.tick() => show_overdue(&cx, &show, &notes, &mut most).await,
            () = cx.drain.cancelled() => break,
        };
        if let Err(error) = done {
            tracing::debug!(worker = %cx.worker, %error, "notes are kept for later");
        }
    }
}

/// Deletes the notes of what was shown.
///
/// # Errors
/// Those of Postgres; the notes are kept.
pub async fn flush(postgres: &PgPool, notes: &Notes) -> sqlx::Result<()> {
    let shown = notes.take();
    if shown.is_empty() {
        return Ok(());
    }
    let deleted = bounded(postgres, async |connection| delete(connection, &shown).await).await;
    if deleted.is_err() {
        notes.put_back(shown);
    }
    deleted
}

/// Shows what is overdue, in pieces, until nothing is left or nothing can be shown. Then the next
/// piece is a smaller one: this one may have taken longer than a bucket is waited for.
async fn show_overdue(
    cx: &Context,
    show: &Show,
    notes: &Notes,
    most: &mut i64,
) -> sqlx::Result<()> {
    while patient(Lease::take(&cx.postgres, LEASE, &cx.instance)).await? {
        let overdue = patient(overdue(&cx.postgres, *most)).await?;
        if overdue.is_empty() {
            return Ok(());
        }
        let states = read(cx, &overdue).await?;
        let shown = show.show_again(&states).await;
        let (overdue, count) = (overdue.len(), shown.len());
        tracing::info!(worker = %cx.worker, overdue, shown = count, "shown again");
        cx.metrics.shown_again.inc_by(count as u64);
        notes.add(shown);
        flush(&cx.postgres, notes).await?;
        *most = if count == 0 { (*most / 8).max(1) } else { (*most * 2).min(AT_ONCE) };
        if count == 0 || cx.drain.is_cancelled() {
            return Ok(());
        }
    }
    Ok(())
}

/// Reads aggregates; one that cannot be read is left out, and keeps nobody else.
async fn read(cx: &Context, addresses: &[Address]) -> sqlx::Result<Vec<State>> {
    let read = async |addresses: &[Address]| {
        bounded(&cx.postgres, async |connection| states::read(connection, addresses).await).await
    };
    match read(addresses).await {
        Err(error) if failure(&error) == Failure::Fault => {}
        done => return done,
    }
    let mut states = Vec::new();
    for address in addresses {
        match read(std::slice::from_ref(address)).await {
            Ok(one) => states.extend(one),
            Err(error) => tracing::error!(%error, %address, "cannot be read, and is not shown"),
        }
    }
    Ok(states)
}

async fn overdue(postgres: &PgPool, most: i64) -> sqlx::Result<Vec<Address>> {
    let rows = sqlx::query_as!(
        Row,
        "select tenant, aggregate, id from brigade.unshown
         where at < clock_timestamp() - make_interval(secs => $1)
         order by at limit $2",
        OVERDUE,
        most,
    )
    .fetch_all(postgres)
    .await?;
    let address = |row: &Row| {
        Address::new(&row.tenant, Aggregate::parse_noted(&row.aggregate)?, &row.id).ok()
    };
    Ok(rows.iter().filter_map(address).collect())
}

struct Row {
    tenant: String,
    aggregate: String,
    id: String,
}
