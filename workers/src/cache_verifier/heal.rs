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
};
use serde_json::Value;
use time::OffsetDateTime;
use tokio::time::{Duration, Instant, sleep};
use uuid::Uuid;

use super::marks::{Found, Loss, Mark};
use crate::{
    outbox_relay::shard_of,
    runtime::{Context, health::Duty},
    store::{Lease, lease::Fitness, postgres::bounded},
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

/// Which aggregates have to be shown again.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Which {
    /// Those that changed since.
    Since(OffsetDateTime),
    /// Those whose rows in `active_orders` have not expired.
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
    pub cx: &'a Context,
    pub lease: &'static str,
    /// That heals.
    pub duty: &'a Duty,
}

/// An aggregate, and its version in SQL.
pub type Versioned = (Address, i64);

impl Heal<'_> {
    /// # Errors
    /// Those of either server, and the loss of the lease; then all of it has to be done again.
    pub async fn run(&self, plan: &Plan) -> anyhow::Result<()> {
        // Writers wait for buckets; what they write meanwhile is not lost again.
        for stream in plan.missing.iter().filter(|stream| *stream != "EVENTS") {
            self.make(stream).await?;
        }
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
    async fn make(&self, name: &str) -> anyhow::Result<()> {
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
    async fn each_piece(&self, which: Which, step: Step) -> anyhow::Result<u64> {
        let mut count = 0;
        if let Which::Since(since) = which {
            let mut changed: Vec<Versioned> = self.changed(since).await?.into_iter().collect();
            if step == Step::Note {
                changed.extend(self.locks_of(&changed).await?);
            }
            for piece in changed.chunks(PIECE as usize) {
                self.still_mine().await?;
                count += self.act(step, piece).await?;
            }
            return Ok(count);
        }
        let kinds: &[Aggregate] = match which {
            Which::Locks if step == Step::Repeat => &[],
            Which::Locks => &[Aggregate::Lock],
            Which::Users => &[Aggregate::User],
            _ => &[Aggregate::Cart, Aggregate::Order, Aggregate::Payment, Aggregate::Table],
        };
        for &kind in kinds {
            let mut after = Some((String::new(), String::new()));
            while let Some(place) = after {
                self.still_mine().await?;
                let page = page(self.cx, kind, &place, PIECE, Margin::default()).await?;
                let piece: Vec<Versioned> = page
                    .rows
                    .into_iter()
                    .filter(|row| if which == Which::Listed { row.listed } else { row.kept })
                    .map(|row| (row.address, row.version))
                    .collect();
                count += self.act(step, &piece).await?;
                after = page.last;
            }
        }
        Ok(count)
    }

    async fn act(&self, step: Step, piece: &[Versioned]) -> sqlx::Result<u64> {
        match step {
            Step::Note => self.note(piece).await,
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
        let mut sorted: Vec<&Versioned> = aggregates.iter().collect();
        // In the order in which everybody locks notes.
        sorted.sort();
        let text = |f: fn(&Address) -> &str| sorted.iter().map(|(a, _)| f(a)).collect::<Vec<_>>();
        let versions: Vec<i64> = sorted.iter().map(|(_, version)| *version).collect();
        let noted = bounded(&self.cx.postgres, async |connection| {
            sqlx::query!(
                "insert into brigade.unshown as note (tenant, aggregate, id, version, at)
             select tenant, aggregate, id, version, clock_timestamp() - interval '2 seconds'
             from unnest($1::text[], $2::text[], $3::text[], $4::bigint[])
                  as lost (tenant, aggregate, id, version)
             on conflict (tenant, aggregate, id)
             do update set version = greatest(note.version, excluded.version),
                           at = least(note.at, excluded.at)",
                &text(|a| a.tenant.as_str()) as _,
                &text(|a| a.aggregate.as_str()) as _,
                &text(|a| a.id.as_str()) as _,
                &versions,
            )
            .execute(&mut **connection)
            .await
        })
        .await?
        .rows_affected();
        self.cx.metrics.healed.with_label_values(&["aggregates"]).inc_by(noted);
        Ok(noted)
    }

    /// Puts the newest event that carries each of these parts into the outbox again.
    ///
    /// # Errors
    /// Those of Postgres.
    pub async fn repeat(&self, parts: &[(Address, Part)]) -> sqlx::Result<u64> {
        let text = |f: fn(&Address) -> &str| parts.iter().map(|(a, _)| f(a)).collect::<Vec<_>>();
        let shards: Vec<i16> = parts.iter().map(|(a, _)| i16::from(shard_of(a))).collect();
        let repeated = bounded(&self.cx.postgres, async |connection| {
            sqlx::query_file!(
                "src/cache_verifier/repeat_parts.sql",
                &text(|a| a.tenant.as_str()) as _,
                &text(|a| a.aggregate.as_str()) as _,
                &text(|a| a.id.as_str()) as _,
                &shards,
                &parts.iter().map(|(_, part)| part.as_str()).collect::<Vec<_>>() as _,
            )
            .execute(&mut **connection)
            .await
        })
        .await?
        .rows_affected();
        self.cx.metrics.healed.with_label_values(&["parts"]).inc_by(repeated);
        Ok(repeated)
    }

    async fn publish_again(&self, events: &Events) -> anyhow::Result<()> {
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
                    "src/cache_verifier/publish_again.sql",
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

    /// Waits until command-handler has shown what is overdue, and tells how far it is.
    async fn until_shown(&self) -> anyhow::Result<()> {
        let mut least = i64::MAX;
        let mut since = Instant::now();
        loop {
            self.still_mine().await?;
            let left = bounded(&self.cx.postgres, async |connection| {
                sqlx::query_scalar!(
                    r#"select count(*) as "left!" from brigade.unshown
                   where at < statement_timestamp() - interval '2 seconds'"#
                )
                .fetch_one(&mut **connection)
                .await
            })
            .await?;
            self.cx.metrics.heal_left.set(left);
            if left < least {
                if since.elapsed() > Duration::from_secs(1) || least == i64::MAX {
                    tracing::info!(worker = %self.cx.worker, left, "aggregates are being shown");
                }
                (least, since) = (left, Instant::now());
            }
            if left == 0 || since.elapsed() > SHOW_PATIENCE || self.cx.drain.is_cancelled() {
                return Ok(());
            }
            sleep(Duration::from_millis(100)).await;
        }
    }

    /// Renews the lease between pieces. Another holder heals as well.
    async fn still_mine(&self) -> anyhow::Result<()> {
        if self.cx.drain.is_cancelled() {
            bail!("draining: the next holder heals");
        }
        if !Lease::hold(self.cx, self.lease, &Fitness::default()).await? {
            bail!("another instance heals");
        }
        self.duty.moved();
        Ok(())
    }
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
