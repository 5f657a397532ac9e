//! Brings back what was lost, by rows in SQL for those who own it.
//!
//! All of it may be repeated: a note never lowers a version, and a repeated event changes
//! nothing. It goes in pieces, so that no statement holds rows for long that command-handler waits
//! for, and so that progress is seen.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::bail;
use async_nats::jetstream::response::Response;
use brigade_contracts::{
    Address, Aggregate, Part,
    key::{Bucket, ENDED_TTL, REMOVED_TTL},
    shard_of,
};
use serde_json::Value;
use sqlx::PgConnection;
use time::OffsetDateTime;
use tokio::time::{Duration, Instant, sleep};
use uuid::Uuid;

use super::marks::{Found, Loss, Mark};
use crate::{
    infra::{
        Context, Lease,
        health::Duty,
        lease::{Fitness, RENEW},
        postgres::bounded,
    },
    store::outbox::repeat_parts,
};

/// Rows of a piece: some 50 ms.
const PIECE: i64 = 2000;
/// A crash takes the last moment; clocks, commits that took long and what is in flight at a mark
/// are well within a minute.
const MARGIN: time::Duration = time::Duration::minutes(1);
/// What `EVENTS` keeps.
const EVENTS_KEPT: time::Duration = time::Duration::days(7);
/// Events are repeated after a lost `versions` is shown, but without any progress of that for this
/// long it goes on.
const SHOW_PATIENCE: Duration = Duration::from_secs(3);
/// How often it is asked how far that is.
const SHOW_LOOK: Duration = Duration::from_millis(250);
/// Notes that are asked for then, at most.
const SAMPLE: usize = 1000;

/// Which aggregates have to be shown again.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Which {
    /// Those that changed since.
    Since(OffsetDateTime),
    /// The orders whose rows in `active_orders` have not expired.
    Listed,
    /// Those whose keys have not expired.
    Kept,
    /// The locks whose keys have not expired.
    Locks,
    /// All users: their keys do not expire.
    Users,
}

/// What is done with the aggregates of a heal, one step after the other.
#[derive(Clone, Copy, PartialEq)]
enum Step {
    Note,
    /// Of their projected parts, the last events.
    Repeat,
}

/// What has to be healed.
#[derive(Debug, Default)]
pub struct Plan {
    /// Streams that are not there.
    missing: Vec<String>,
    since: Option<OffsetDateTime>,
    listed: bool,
    kept: bool,
    locks: bool,
    users: bool,
    versions: bool,
    /// Parts of projectors stood in what was lost.
    projected: bool,
    events: Option<Events>,
}

/// Which events go into the stream again.
#[derive(Debug)]
struct Events {
    since: OffsetDateTime,
    /// Under ids of their own. The memory of ids survives a purge of the stream: for two minutes
    /// it would take the event for a duplicate of a message that is not there any more.
    as_repetition: bool,
}

impl Plan {
    pub fn is_empty(&self) -> bool {
        self.missing.is_empty()
            && self.since.is_none()
            && !self.listed
            && !self.kept
            && !self.locks
            && !self.users
            && self.events.is_none()
    }

    pub fn add(
        &mut self,
        stream: &str,
        loss: Loss,
        found: &Found,
        mark: Option<&Mark>,
        now: OffsetDateTime,
    ) {
        if loss == Loss::Missing {
            self.missing.push(stream.to_owned());
        }
        let since = mark.map_or(now, |mark| mark.noted_at) - MARGIN;
        let purged_after = |found: &Mark| loss == Loss::Purged || found.first_seq > 1;
        if stream == "EVENTS" {
            let since = if loss.is_whole() { now - EVENTS_KEPT } else { since };
            let whole = loss.is_whole();
            let as_repetition =
                matches!(found, Found::Stream(found) if whole && purged_after(found));
            self.events = Some(Events { since, as_repetition });
        }
        if stream == "TIMERS" {
            // Whoever shows a lock again writes its timer too.
            self.locks = true;
        }
        let Some(bucket) = Bucket::ALL.into_iter().find(|bucket| bucket.stream() == stream) else {
            return;
        };
        match bucket {
            Bucket::Attempts => return,
            _ if !loss.is_whole() => {
                self.since = Some(self.since.map_or(since, |earlier| earlier.min(since)));
            }
            Bucket::ActiveOrders => self.listed = true,
            Bucket::CartLocks => self.locks = true,
            Bucket::UserState => self.users = true,
            Bucket::Views => self.kept = true,
            Bucket::Versions => (self.kept, self.users) = (true, true),
        }
        self.versions |= bucket == Bucket::Versions;
        self.projected |=
            matches!(bucket, Bucket::Views | Bucket::ActiveOrders | Bucket::UserState);
    }

    fn parts(&self) -> impl Iterator<Item = Which> {
        let kept = self.kept.then_some(Which::Kept);
        let listed = (self.listed && !self.kept).then_some(Which::Listed);
        let locks = self.locks.then_some(Which::Locks);
        let users = self.users.then_some(Which::Users);
        [kept, listed, locks, users, self.since.map(Which::Since)].into_iter().flatten()
    }
}

/// One heal, under a lease.
pub struct Heal<'a> {
    cx: &'a Context,
    lease: &'static str,
    /// That heals.
    duty: &'a Duty,
    renewed: Option<Instant>,
    sample: Sample,
}

/// An aggregate, and its version in SQL.
pub type Versioned = (Address, i64);

/// Some of the aggregates that a heal noted, evenly spread: by them it sees how far showing is. To
/// count all notes takes longer the more there are.
struct Sample {
    some: Vec<Address>,
    /// How many there are.
    all: i64,
    pieces: usize,
    /// One is kept of so many pieces.
    of: usize,
}

impl Sample {
    fn add(&mut self, piece: &[Versioned]) {
        let Some((last, _)) = piece.last() else { return };
        self.all += piece.len() as i64;
        if self.pieces.is_multiple_of(self.of) {
            self.some.push(last.clone());
        }
        self.pieces += 1;
        if self.some.len() > SAMPLE {
            let mut place = 0;
            self.some.retain(|_| {
                place += 1;
                place % 2 == 1
            });
            self.of *= 2;
        }
    }
}

impl<'a> Heal<'a> {
    pub fn new(cx: &'a Context, lease: &'static str, duty: &'a Duty) -> Self {
        let sample = Sample { some: Vec::new(), all: 0, pieces: 0, of: 1 };
        Self { cx, lease, duty, renewed: None, sample }
    }

    /// Heals what is planned. The streams but `EVENTS` are there already.
    ///
    /// # Errors
    /// Those of either server, and the loss of the lease; then all of it has to be done again.
    pub async fn run(&mut self, plan: &Plan) -> anyhow::Result<()> {
        for which in plan.parts() {
            let noted = self.each_piece(which, Step::Note).await?;
            tracing::info!(worker = %self.cx.worker, ?which, noted, "to be shown again");
        }
        if plan.versions {
            // Projectors that find nothing at a key ask `versions`, and a message may only fail so
            // often.
            self.until_shown().await?;
        }
        if let Some(events) = &plan.events {
            // Before the stream is there: the relay, and all who consume it, find old events first.
            self.publish_again(events).await?;
        }
        if plan.missing.iter().any(|stream| stream == "EVENTS") {
            self.make("EVENTS").await?;
        }
        if plan.projected {
            for which in plan.parts() {
                let repeated = self.each_piece(which, Step::Repeat).await?;
                tracing::info!(worker = %self.cx.worker, ?which, repeated, "to be projected again");
            }
        }
        Ok(())
    }

    /// Makes a stream of the topology; one that is there stays as it is.
    ///
    /// # Errors
    /// Where the server does not make it.
    pub async fn make(&self, name: &str) -> anyhow::Result<()> {
        let declared = self.cx.topology.stream(name);
        let made = self.cx.nats.jetstream.request(format!("STREAM.CREATE.{name}"), &declared);
        match made.await? {
            Response::Ok::<Value>(_) => {
                tracing::warn!(worker = %self.cx.worker, stream = name, "made again");
                Ok(())
            }
            Response::Err { error } => bail!("cannot make {name}: {error}"),
        }
    }

    /// Does something with each piece of these aggregates. Returns how many there were.
    async fn each_piece(&mut self, which: Which, step: Step) -> anyhow::Result<u64> {
        let few = match which {
            Which::Since(since) => {
                let mut changed: Vec<Versioned> = self.changed(since).await?.into_iter().collect();
                if step == Step::Note {
                    changed.extend(self.locks_of(&changed).await?);
                }
                changed
            }
            Which::Listed => self.listed().await?,
            Which::Kept | Which::Locks | Which::Users => Vec::new(),
        };
        let mut count = 0;
        for piece in few.chunks(PIECE as usize) {
            self.still_mine().await?;
            count += self.act(step, piece).await?;
        }
        let kinds: &[Aggregate] = match which {
            Which::Since(_) | Which::Listed => &[],
            Which::Locks if step == Step::Repeat => &[],
            Which::Locks => &[Aggregate::Lock],
            Which::Users => &[Aggregate::User],
            Which::Kept => {
                &[Aggregate::Cart, Aggregate::Order, Aggregate::Payment, Aggregate::Table]
            }
        };
        for &kind in kinds {
            let mut after = Some((String::new(), String::new()));
            while let Some(place) = after {
                self.still_mine().await?;
                let page = page(self.cx, kind, &place, PIECE, Margin::default()).await?;
                let piece: Vec<Versioned> = page
                    .rows
                    .into_iter()
                    .filter(|row| row.kept)
                    .map(|row| (row.address, row.version))
                    .collect();
                count += self.act(step, &piece).await?;
                after = page.last;
            }
        }
        Ok(count)
    }

    async fn act(&mut self, step: Step, piece: &[Versioned]) -> sqlx::Result<u64> {
        match step {
            Step::Note => {
                self.sample.add(piece);
                self.note(piece).await
            }
            Step::Repeat => {
                let projected = |(address, _): &Versioned| {
                    let parts = address.aggregate.parts().iter().filter(|part| part.is_projected());
                    parts.map(|part| (address.clone(), *part)).collect::<Vec<_>>()
                };
                self.repeat(&piece.iter().flat_map(projected).collect::<Vec<_>>()).await
            }
        }
    }

    /// Notes aggregates as not shown. An old note is shown at once.
    ///
    /// # Errors
    /// Those of Postgres.
    pub async fn note(&self, aggregates: &[Versioned]) -> sqlx::Result<u64> {
        let noted = bounded(&self.cx.postgres, async |c| note(c, aggregates).await).await?;
        self.cx.metrics.healed.with_label_values(&["aggregates"]).inc_by(noted);
        Ok(noted)
    }

    /// Puts the newest event that carries each of these parts into the outbox again.
    ///
    /// # Errors
    /// Those of Postgres.
    pub async fn repeat(&self, parts: &[(Address, Part)]) -> sqlx::Result<u64> {
        let repeated = bounded(&self.cx.postgres, async |c| repeat_parts(c, parts).await).await?;
        self.cx.metrics.healed.with_label_values(&["parts"]).inc_by(repeated);
        Ok(repeated)
    }

    async fn publish_again(&mut self, events: &Events) -> anyhow::Result<()> {
        let mut count = 0;
        let (mut after, until) = self.span(events.since).await?;
        loop {
            self.still_mine().await?;
            let piece = self.events(after, until).await?;
            let Some(last) = piece.last() else { break };
            after = last.seq;
            let seqs: Vec<i64> = piece.iter().map(|event| event.seq).collect();
            let ids: Vec<Uuid> = piece.iter().map(|event| event.event_id).collect();
            let shards: Vec<i16> = piece
                .iter()
                .map(|event| event.address().map_or(0, |address| i16::from(shard_of(&address))))
                .collect();
            let inserted = bounded(&self.cx.postgres, async |connection| {
                sqlx::query_file!(
                    "src/workers/cache_verifier/publish_again.sql",
                    &seqs,
                    &ids,
                    &shards,
                    events.as_repetition,
                )
                .execute(&mut **connection)
                .await
            })
            .await?;
            count += inserted.rows_affected();
            self.cx.metrics.healed.with_label_values(&["events"]).inc_by(inserted.rows_affected());
            tracing::info!(worker = %self.cx.worker, events = count, "to be published again");
        }
        Ok(())
    }

    /// The aggregates that changed since, with the version of their newest event.
    async fn changed(&self, since: OffsetDateTime) -> anyhow::Result<BTreeMap<Address, i64>> {
        let mut changed = BTreeMap::new();
        let (mut after, until) = self.span(since).await?;
        loop {
            let piece = self.events(after, until).await?;
            self.duty.moved();
            let Some(last) = piece.last() else { return Ok(changed) };
            after = last.seq;
            for event in &piece {
                if let Some(address) = event.address() {
                    // Events of an aggregate come in the order of versions.
                    changed.insert(address, event.version);
                }
            }
        }
    }

    /// The orders whose rows in `active_orders` have not expired: those that are active, and of each
    /// tenant those that ended a short while ago. Nothing of the history is read.
    async fn listed(&self) -> sqlx::Result<Vec<Versioned>> {
        let rows = bounded(&self.cx.postgres, async |connection| {
            sqlx::query_file!("src/workers/cache_verifier/listed.sql", REMOVED_TTL.as_secs_f64())
                .fetch_all(&mut **connection)
                .await
        });
        let address = |tenant: &str, id: &str| Address::new(tenant, Aggregate::Order, id).ok();
        let rows = rows.await?;
        Ok(rows
            .iter()
            .filter_map(|row| Some((address(&row.tenant, &row.id)?, row.version)))
            .collect())
    }

    /// The locks of the owners of these carts. A lock has no events of its own, but none changes
    /// without its cart; one that was claimed left a row with the cart's session.
    async fn locks_of(&self, aggregates: &[Versioned]) -> sqlx::Result<Vec<Versioned>> {
        let mut locks = Vec::new();
        let carts: Vec<&Address> = aggregates
            .iter()
            .map(|(address, _)| address)
            .filter(|address| address.aggregate == Aggregate::Cart)
            .collect();
        for piece in carts.chunks(PIECE as usize) {
            let text = |f: fn(&Address) -> &str| piece.iter().map(|a| f(a)).collect::<Vec<_>>();
            let rows = bounded(&self.cx.postgres, async |connection| {
                sqlx::query!(
                    r#"select distinct lock.tenant, lock.owner, lock.version
                   from unnest($1::text[], $2::text[]) as asked (tenant, id)
                   join brigade.carts cart using (tenant, id)
                   cross join lateral (values (cart.owner), (cart.session)) as whose (owner)
                   join brigade.cart_locks lock
                        on (lock.tenant, lock.owner) = (cart.tenant, whose.owner)"#,
                    &text(|a| a.tenant.as_str()) as _,
                    &text(|a| a.id.as_str()) as _,
                )
                .fetch_all(&mut **connection)
                .await
            })
            .await?;
            locks.extend(rows.into_iter().filter_map(|row| {
                Some((Address::new(&row.tenant, Aggregate::Lock, &row.owner).ok()?, row.version))
            }));
        }
        Ok(locks)
    }

    /// The numbers of the events since: above the first, up to the second.
    async fn span(&self, since: OffsetDateTime) -> sqlx::Result<(i64, i64)> {
        // The inner query is kept apart, else the planner walks from the first event on.
        let span = bounded(&self.cx.postgres, async |connection| {
            sqlx::query!(
                r#"select coalesce(min(seq), 1) - 1 as "after!", coalesce(max(seq), 0) as "until!"
               from (select seq from brigade.events where at >= $1 offset 0) recent"#,
                since,
            )
            .fetch_one(&mut **connection)
            .await
        })
        .await?;
        Ok((span.after, span.until))
    }

    async fn events(&self, after: i64, until: i64) -> sqlx::Result<Vec<EventRow>> {
        bounded(&self.cx.postgres, async |connection| {
            sqlx::query_as!(
                EventRow,
                "select seq, event_id, tenant, aggregate, id, version from brigade.events
             where seq > $1 and seq <= $2 order by seq limit $3",
                after,
                until,
                PIECE,
            )
            .fetch_all(&mut **connection)
            .await
        })
        .await
    }

    /// Waits until command-handler has shown what is overdue, and tells about how far it is.
    async fn until_shown(&mut self) -> anyhow::Result<()> {
        let stands_for = self.sample.of as i64 * PIECE;
        let (mut least, mut since) = (i64::MAX, Instant::now());
        loop {
            self.still_mine().await?;
            let (sampled, any) = self.overdue().await?;
            let left = (sampled * stands_for).min(self.sample.all).max(i64::from(any));
            self.cx.metrics.heal_left.set(left);
            if left < least {
                if since.elapsed() > Duration::from_secs(1) || least == i64::MAX {
                    tracing::info!(worker = %self.cx.worker, left, "about so many are to be shown");
                }
                (least, since) = (left, Instant::now());
            }
            if !any || since.elapsed() > SHOW_PATIENCE || self.cx.drain.is_cancelled() {
                return Ok(());
            }
            sleep(SHOW_LOOK).await;
        }
    }

    /// How many of the sample are overdue, and whether anything is. Other notes are looked at only
    /// when nothing of the sample is left.
    async fn overdue(&self) -> sqlx::Result<(i64, bool)> {
        let some = &self.sample.some;
        let text = |f: fn(&Address) -> &str| some.iter().map(f).collect::<Vec<_>>();
        let overdue = bounded(&self.cx.postgres, async |connection| {
            sqlx::query_file!(
                "src/workers/cache_verifier/overdue.sql",
                &text(|a| a.tenant.as_str()) as _,
                &text(|a| a.aggregate.as_str()) as _,
                &text(|a| a.id.as_str()) as _,
            )
            .fetch_one(&mut **connection)
            .await
        });
        let overdue = overdue.await?;
        Ok((overdue.sampled, overdue.any))
    }

    /// Renews the lease between pieces, when it is time. Another holder heals as well.
    async fn still_mine(&mut self) -> anyhow::Result<()> {
        if self.cx.drain.is_cancelled() {
            bail!("draining: the next holder heals");
        }
        if self.renewed.is_none_or(|at| at.elapsed() >= RENEW) {
            let now = Instant::now();
            if !Lease::hold(self.cx, self.lease, &Fitness::default()).await? {
                bail!("another instance heals");
            }
            self.renewed = Some(now);
        }
        self.duty.moved();
        Ok(())
    }
}

/// Notes aggregates as not shown; an old note is shown at once. They are sorted by the database, as
/// by a batch of command-handler: the two would else wait for each other in a circle.
async fn note(postgres: &mut PgConnection, aggregates: &[Versioned]) -> sqlx::Result<u64> {
    let text = |f: fn(&Address) -> &str| aggregates.iter().map(|(a, _)| f(a)).collect::<Vec<_>>();
    let versions: Vec<i64> = aggregates.iter().map(|(_, version)| *version).collect();
    let noted = sqlx::query!(
        "insert into brigade.unshown as note (tenant, aggregate, id, version, at)
         select tenant, aggregate, id, version, clock_timestamp() - interval '2 seconds'
         from unnest($1::text[], $2::text[], $3::text[], $4::bigint[])
              as lost (tenant, aggregate, id, version)
         order by tenant, aggregate, id
         on conflict (tenant, aggregate, id)
         do update set version = greatest(note.version, excluded.version),
                       at = least(note.at, excluded.at)",
        &text(|a| a.tenant.as_str()) as _,
        &text(|a| a.aggregate.as_str()) as _,
        &text(|a| a.id.as_str()) as _,
        &versions,
    )
    .execute(postgres)
    .await?;
    Ok(noted.rows_affected())
}

struct EventRow {
    seq: i64,
    event_id: Uuid,
    tenant: String,
    aggregate: String,
    id: String,
    version: i64,
}

impl EventRow {
    fn address(&self) -> Option<Address> {
        Address::new(&self.tenant, Aggregate::parse(&self.aggregate)?, &self.id).ok()
    }
}

/// How long before their end keys count as expired already: a heal writes them once more, an audit
/// must not take an expiry for a loss.
#[derive(Clone, Copy, Debug, Default)]
pub struct Margin {
    pub ended: Duration,
    pub removed: Duration,
}

/// Some aggregates of a kind, by key.
pub struct Page {
    pub rows: Vec<PageRow>,
    /// Where the next one begins; `None` at the end.
    pub last: Option<(String, String)>,
}

pub struct PageRow {
    pub address: Address,
    pub version: i64,
    /// Its keys have not expired.
    pub kept: bool,
    /// Nor have its rows in `active_orders`.
    pub listed: bool,
}

struct KeyRow {
    tenant: String,
    id: String,
    version: i64,
    kept: bool,
    listed: bool,
}

/// The next aggregates of a kind after a key.
pub async fn page(
    cx: &Context,
    kind: Aggregate,
    after: &(String, String),
    most: i64,
    margin: Margin,
) -> sqlx::Result<Page> {
    let ended = (ENDED_TTL - margin.ended).as_secs_f64();
    let removed = (REMOVED_TTL - margin.removed).as_secs_f64();
    let rows = bounded(&cx.postgres, async |connection| match kind {
        Aggregate::Cart => {
            sqlx::query_as!(
                KeyRow,
                r#"select tenant, id, version, false as "listed!",
                          status = 'open'
                          or updated_at > clock_timestamp() - make_interval(secs => $4) as "kept!"
                   from brigade.carts where (tenant, id) > ($1, $2)
                   order by tenant, id limit $3"#,
                after.0,
                after.1,
                most,
                ended,
            )
            .fetch_all(&mut **connection)
            .await
        }
        Aggregate::Lock => {
            sqlx::query_as!(
                KeyRow,
                r#"select tenant, owner as id, version, false as "listed!",
                          state = 'held'
                          or updated_at > clock_timestamp() - make_interval(secs => $4) as "kept!"
                   from brigade.cart_locks where (tenant, owner) > ($1, $2)
                   order by tenant, owner limit $3"#,
                after.0,
                after.1,
                most,
                removed,
            )
            .fetch_all(&mut **connection)
            .await
        }
        Aggregate::Payment => {
            sqlx::query_as!(
                KeyRow,
                r#"select tenant, id, version, false as "listed!",
                          status in ('initiated', 'unknown')
                          or updated_at > clock_timestamp() - make_interval(secs => $4) as "kept!"
                   from brigade.payments where (tenant, id) > ($1, $2)
                   order by tenant, id limit $3"#,
                after.0,
                after.1,
                most,
                ended,
            )
            .fetch_all(&mut **connection)
            .await
        }
        Aggregate::Table => {
            sqlx::query_as!(
                KeyRow,
                r#"select tenant, id, version, false as "listed!", true as "kept!"
                   from brigade.tables where (tenant, id) > ($1, $2)
                   order by tenant, id limit $3"#,
                after.0,
                after.1,
                most,
            )
            .fetch_all(&mut **connection)
            .await
        }
        Aggregate::User => {
            sqlx::query_as!(
                KeyRow,
                r#"select tenant, id, version, true as "kept!", false as "listed!"
                   from brigade.users where (tenant, id) > ($1, $2)
                   order by tenant, id limit $3"#,
                after.0,
                after.1,
                most,
            )
            .fetch_all(&mut **connection)
            .await
        }
        _ => {
            sqlx::query_as!(
                KeyRow,
                r#"select tenant, id, version,
                          active or updated_at > clock_timestamp() - make_interval(secs => $4)
                              as "kept!",
                          active or updated_at > clock_timestamp() - make_interval(secs => $5)
                              as "listed!"
                   from brigade.orders where (tenant, id) > ($1, $2)
                   order by tenant, id limit $3"#,
                after.0,
                after.1,
                most,
                ended,
                removed,
            )
            .fetch_all(&mut **connection)
            .await
        }
    });
    let rows = rows.await?;
    let full = rows.len() as i64 >= most;
    let last = rows.last().filter(|_| full).map(|row| (row.tenant.clone(), row.id.clone()));
    let known = |row: KeyRow| {
        let address = Address::new(&row.tenant, kind, &row.id).ok()?;
        let KeyRow { version, kept, listed, .. } = row;
        Some(PageRow { address, version, kept, listed })
    };
    Ok(Page { rows: rows.into_iter().filter_map(known).collect(), last })
}

/// The aggregates of which a note says that they are not shown yet.
pub async fn noted(cx: &Context, addresses: &[Address]) -> sqlx::Result<BTreeSet<String>> {
    let text = |f: fn(&Address) -> &str| addresses.iter().map(f).collect::<Vec<_>>();
    let rows = bounded(&cx.postgres, async |connection| {
        sqlx::query!(
            "select tenant, aggregate, id from brigade.unshown
         join unnest($1::text[], $2::text[], $3::text[]) as asked (tenant, aggregate, id)
              using (tenant, aggregate, id)",
            &text(|a| a.tenant.as_str()) as _,
            &text(|a| a.aggregate.as_str()) as _,
            &text(|a| a.id.as_str()) as _,
        )
        .fetch_all(&mut **connection)
        .await
    })
    .await?;
    Ok(rows.iter().map(|row| format!("{}.{}.{}", row.tenant, row.aggregate, row.id)).collect())
}

#[cfg(test)]
mod tests {
    use sqlx::{Connection, raw_sql};

    use super::*;
    use crate::testing::Database;

    fn address(aggregate: Aggregate, id: &str) -> Address {
        Address::new("t1", aggregate, id).unwrap()
    }

    #[test]
    fn a_sample_stays_small_and_is_spread_evenly() {
        let mut sample = Sample { some: Vec::new(), all: 0, pieces: 0, of: 1 };
        for piece in 0..10_000 {
            sample.add(&[(address(Aggregate::Cart, &format!("c{piece}")), 1)]);
        }
        assert_eq!((sample.of, sample.some.len(), sample.all), (16, 625, 10_000));
        let expected: Vec<_> =
            (0..625).map(|n| address(Aggregate::Cart, &format!("c{}", 16 * n))).collect();
        assert_eq!(sample.some, expected);
    }

    #[tokio::test]
    async fn how_far_showing_is_is_told_by_a_sample_and_not_by_counting() -> anyhow::Result<()> {
        let database = Database::start().await?;
        let overdue = async |ids: &str| {
            let values = format!("'{{t1,t1}}', '{{cart,cart}}', '{{{ids}}}'");
            let types = "text[], text[], text[]";
            database.rows_read(types, include_str!("overdue.sql"), &values).await
        };
        let notes = "insert into brigade.unshown
                     select 't1', 'cart', 'c' || n, 1, now() - interval '1 minute'
                     from generate_series(1, 20000) n";
        for more in [notes, "analyze brigade.unshown"] {
            database.run(more).await?;
            assert_eq!(overdue("c1,c20000").await?, 2);
            assert_eq!(overdue("x,y").await?, 1, "whether there is any");
        }
        Ok(())
    }

    #[tokio::test]
    async fn listed_orders_are_found_without_the_history() -> anyhow::Result<()> {
        let database = Database::start().await?;
        let listed = async || database.rows_read("float8", include_str!("listed.sql"), "600").await;
        let order = |id: &str, status: &str, ended: &str, count: u32| {
            format!(
                "insert into brigade.orders (tenant, id, version, updated_at, parts, parts_at,
                                             status, currency, items, total, created_at)
                 select 't' || n % 5, '{id}' || n, 1, now() - interval '{ended}', '{{}}', '{{}}',
                        '{status}', 'EUR', '[]', 1, now() - interval '2 hours'
                 from generate_series(1, {count}) n;"
            )
        };
        // The planner takes it for empty at first.
        assert_eq!(listed().await?, 0);
        database.run(&order("old", "completed", "1 hour", 10_000)).await?;
        database.run(&order("left", "cancelled", "1 minute", 10)).await?;
        database.run(&order("active", "placed", "1 hour", 50)).await?;
        for more in ["select", "analyze brigade.orders"] {
            database.run(more).await?;
            let read = listed().await?;
            assert!((60..80).contains(&read), "{read} rows, of 5 tenants");
        }
        let rows = sqlx::query_file!("src/workers/cache_verifier/listed.sql", 600.0);
        let rows = rows.fetch_all(&database.sql).await?;
        assert_eq!(rows.len(), 60);
        assert!(rows.iter().all(|row| !row.id.starts_with("old")));
        Ok(())
    }

    /// The batch has noted a lock, and is about to note an order besides: it goes by the text of the
    /// kinds, in which a lock comes first.
    #[tokio::test]
    async fn a_heal_and_a_batch_note_in_the_same_order() -> anyhow::Result<()> {
        let database = Database::start().await?;
        let (lock, order) = (address(Aggregate::Lock, "ada"), address(Aggregate::Order, "o1"));
        let both = [(order, 1), (lock, 1)];
        let mut batch = PgConnection::connect(&database.url).await?;
        let mut heal = PgConnection::connect(&database.url).await?;
        note(&mut heal, &both).await?;
        let waits = sqlx::query_scalar::<_, i32>("select pg_backend_pid()");
        let waits = waits.fetch_one(&mut heal).await?;
        let lock_note = |kind: &str| {
            format!("update brigade.unshown set version = 2 where aggregate = '{kind}'")
        };
        raw_sql("begin; set local lock_timeout = '5s'").execute(&mut batch).await?;
        raw_sql(sqlx::AssertSqlSafe(lock_note("lock"))).execute(&mut batch).await?;
        let healing = tokio::spawn(async move { note(&mut heal, &both).await });
        let waiting = "select exists (select from pg_stat_activity
                                      where pid = $1 and wait_event_type = 'Lock')";
        while !sqlx::query_scalar(waiting).bind(waits).fetch_one(&database.sql).await? {}
        // Nothing is held there by whoever waits.
        let free = "select from brigade.unshown where aggregate = 'order' for update nowait";
        raw_sql(free).execute(&mut batch).await?;
        raw_sql("commit").execute(&mut batch).await?;
        assert_eq!(healing.await??, 2);
        Ok(())
    }
}
