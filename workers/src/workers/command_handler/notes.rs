//! The notes of what may not stand in KV yet (`brigade.projection_backlog`).
//!
//! A transaction notes what it changed; what was shown afterwards loses its note with the next
//! batch, or alone after [`FLUSH`]. One command-handler, by a lease, shows what is noted for
//! longer than [`OVERDUE`]: whoever should have shown it has died or could not.

use std::{
    collections::{BTreeSet, HashMap},
    mem,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use brigade_contracts::{Address, Aggregate};
use brigade_domain::State;
use sqlx::{PgConnection, PgPool};
use time::OffsetDateTime;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::{patient::PATIENCE, show::Show};
use crate::{
    infra::{
        Context, Lease,
        health::Duty,
        lease::{self, Fitness},
        postgres::{Failure, bounded, failure},
    },
    store::states,
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
/// left: it speaks of a newer version. Each is found by its key, whatever the planner believes
/// about a table that is empty at one moment and full at the next; they come sorted.
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
        "delete from brigade.projection_backlog where ctid = any (array (
             select done.ctid
             from unnest($1::text[], $2::text[], $3::text[], $4::bigint[])
                  as shown (tenant, aggregate, id, version)
             cross join lateral (
                 select note.ctid from brigade.projection_backlog note
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
    let mut round = Round::default();
    let duty = cx.health.duty("notes");
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let done = tokio::select! {
            _ = tick.tick() => flush(&cx.postgres, &notes).await,
            _ = look.tick() => show_overdue(&cx, &show, &notes, &mut round, &duty).await,
            () = cx.drain.cancelled() => break,
        };
        match done {
            Ok(()) => duty.moved(),
            Err(error) => {
                duty.went_round();
                tracing::debug!(worker = %cx.worker, %error, "notes are kept for later");
            }
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

/// A way through all notes, by their key: a piece begins where the one before ended and reads
/// nothing twice, however many there are, and no index besides that of the key has to be kept by
/// those who write notes. What cannot be shown now is passed by until the next round, so that it
/// keeps nobody else.
struct Round {
    /// Key of the last note of the piece before: tenant, aggregate, id.
    after: (String, String, String),
    /// Most notes in a piece.
    most: i64,
    /// Notes up to this time whose addresses cannot be read were told of, in an earlier round.
    told: OffsetDateTime,
    /// The newest of them in this round.
    telling: OffsetDateTime,
    /// Whether anything can be shown.
    fitness: Fitness,
}

impl Default for Round {
    fn default() -> Self {
        let (told, telling) = (OffsetDateTime::UNIX_EPOCH, OffsetDateTime::UNIX_EPOCH);
        let fitness = Fitness::default();
        Self { after: Default::default(), most: AT_ONCE, told, telling, fitness }
    }
}

impl Round {
    /// Goes past a piece, and returns what its notes are of.
    fn pass(&mut self, cx: &Context, piece: &[Note]) -> Vec<Address> {
        let mut addresses = Vec::new();
        for note in piece {
            match note.address() {
                Some(address) => addresses.push(address),
                None if note.at <= self.told => {}
                None => {
                    tracing::error!(worker = %cx.worker, ?note, "no address, and is not shown");
                    self.telling = self.telling.max(note.at);
                }
            }
        }
        if let Some(Note { tenant, aggregate, id, .. }) = piece.last() {
            self.after = (tenant.clone(), aggregate.clone(), id.clone());
        }
        addresses
    }

    /// Begins the next one.
    fn end(&mut self) {
        self.after = Default::default();
        self.told = self.telling;
    }
}

/// A note.
#[derive(Debug)]
struct Note {
    at: OffsetDateTime,
    tenant: String,
    aggregate: String,
    id: String,
    version: i64,
}

impl Note {
    fn address(&self) -> Option<Address> {
        Address::new(&self.tenant, Aggregate::parse_noted(&self.aggregate)?, &self.id).ok()
    }
}

/// Shows what is overdue, in pieces, until the round is over or nothing of a piece can be shown:
/// the round goes on at the next look then, so that servers that are away are not asked without
/// pause.
async fn show_overdue(
    cx: &Context,
    show: &Show,
    notes: &Notes,
    round: &mut Round,
    duty: &Duty,
) -> sqlx::Result<()> {
    while Lease::hold(cx, LEASE, &round.fitness).await? {
        duty.moved();
        let overdue = overdue(&cx.postgres, round).await?;
        if overdue.is_empty() {
            round.end();
            return Ok(());
        }
        let Read { states, gone } = read(cx, &round.pass(cx, &overdue)).await?;
        let began = Instant::now();
        let shown = show.show_again(&states).await;
        let count = shown.len();
        // A piece may be so large that it takes longer than a bucket is waited for.
        let too_large = count == 0 && began.elapsed() >= PATIENCE;
        round.most =
            if too_large { (round.most / 8).max(1) } else { (round.most * 2).min(AT_ONCE) };
        match count {
            0 if !states.is_empty() => round.fitness.fails(),
            _ => round.fitness.works(),
        }
        if count > 0 {
            let overdue = overdue.len();
            tracing::info!(worker = %cx.worker, overdue, shown = count, "shown again");
        }
        cx.metrics.shown_again.inc_by(count as u64);
        notes.add(shown);
        notes.add(of_gone(&overdue, &gone));
        flush(&cx.postgres, notes).await?;
        if count == 0 || cx.drain.is_cancelled() {
            return Ok(());
        }
    }
    Ok(())
}

/// What notes are of, as it is now.
#[derive(Default)]
struct Read {
    states: Vec<State>,
    /// Locks that were deleted: there is nothing to show of them.
    gone: BTreeSet<Address>,
}

impl Read {
    fn add(&mut self, asked: &[Address], states: Vec<State>) {
        let there: BTreeSet<&Address> = states.iter().map(|state| &state.head().address).collect();
        let gone = |a: &&Address| a.aggregate == Aggregate::Lock && !there.contains(a);
        self.gone.extend(asked.iter().filter(gone).cloned());
        self.states.extend(states);
    }
}

/// Returns the versions that the notes of these locks speak of. A lock that is made again has a
/// higher one, and keeps its note.
fn of_gone(notes: &[Note], gone: &BTreeSet<Address>) -> Vec<(Address, u64)> {
    let versions = notes.iter().filter_map(|note| {
        let address = note.address().filter(|address| gone.contains(address))?;
        Some((address, note.version.cast_unsigned()))
    });
    versions.collect()
}

/// Reads aggregates; one that cannot be read is left out, and keeps nobody else.
async fn read(cx: &Context, addresses: &[Address]) -> sqlx::Result<Read> {
    let read = async |addresses: &[Address]| {
        bounded(&cx.postgres, async |connection| states::load(connection, addresses).await).await
    };
    let mut found = Read::default();
    match read(addresses).await {
        Ok(states) => {
            found.add(addresses, states);
            return Ok(found);
        }
        Err(error) if failure(&error) == Failure::Fault => {}
        Err(error) => return Err(error),
    }
    for address in addresses {
        match read(std::slice::from_ref(address)).await {
            Ok(one) => found.add(std::slice::from_ref(address), one),
            Err(error) => tracing::error!(%error, %address, "cannot be read, and is not shown"),
        }
    }
    Ok(found)
}

async fn overdue(postgres: &PgPool, round: &Round) -> sqlx::Result<Vec<Note>> {
    let (tenant, aggregate, id) = &round.after;
    bounded(postgres, async |connection| {
        sqlx::query_file_as!(
            Note,
            "src/workers/command_handler/overdue.sql",
            OVERDUE,
            tenant,
            aggregate,
            id,
            round.most,
        )
        .fetch_all(&mut **connection)
        .await
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Database;

    #[tokio::test]
    async fn a_piece_of_notes_is_all_that_is_read_however_many_there_are() -> anyhow::Result<()> {
        let database = Database::start().await?;
        let overdue = async |after: &str| {
            let values = format!("1, {after}, {AT_ONCE}");
            let types = "float8, text, text, text, bigint";
            database.rows_read(types, include_str!("overdue.sql"), &values).await
        };
        assert_eq!(overdue("'', '', ''").await?, 0);
        // The planner still takes it for empty; then it knows.
        let notes = "insert into brigade.projection_backlog
                     select 't' || n % 7, 'cart', 'c' || n, 1, now() - interval '1 minute'
                     from generate_series(1, 20000) n";
        for more in [notes, "analyze brigade.projection_backlog"] {
            database.run(more).await?;
            for after in ["'', '', ''", "'t3', 'cart', 'c5'", "'t5', 'cart', ''"] {
                assert_eq!(overdue(after).await?, AT_ONCE.cast_unsigned(), "after {after}");
            }
        }
        // All of them, each once.
        let (mut round, mut seen) = (Round::default(), 0);
        loop {
            let piece = super::overdue(&database.sql, &round).await?;
            let Some(Note { tenant, aggregate, id, .. }) = piece.last() else { break };
            round.after = (tenant.clone(), aggregate.clone(), id.clone());
            seen += piece.len();
        }
        assert_eq!(seen, 20_000);
        Ok(())
    }
}
