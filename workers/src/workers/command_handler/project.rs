//! Projects aggregates into KV: writes `versions` and the parts that command-handler owns, at their
//! newest versions, so that a newer projection covers all older ones.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use async_nats::jetstream;
use brigade_contracts::{Address, Era, Part, key::Bucket};
use brigade_domain::State;
use futures::future::join_all;
use sqlx::PgPool;
use tokio::time::timeout;

use super::{
    guarded_bucket::{GuardedBucket, WRITE_TIMEOUT},
    held_up::lock_free,
    projected_keys::{active_order, auth, cart_lock, core, timer, versions},
};
use crate::{
    infra::{
        Context, Put, PutResult, WhenAbsent,
        metrics::VisibilityMetrics,
        postgres::{bounded, era},
    },
    store::states,
};

/// Longest time that an answer waits for a timer.
const TIMER_TIMEOUT: Duration = Duration::from_millis(250);

/// Aggregates that were projected as they stand in SQL.
#[derive(Default)]
pub struct RestoredAggregates {
    /// The number of those that were read.
    pub read: usize,
    /// Those that are completely stored in KV now, with their versions.
    pub projected: Vec<(Address, u64)>,
    /// Those that are not in SQL, such as locks that were deleted: of them nothing is to be
    /// projected.
    pub absent: BTreeSet<Address>,
}

/// Writes the buckets of command-handler.
pub struct ProjectionWriter {
    versions: GuardedBucket,
    views: GuardedBucket,
    active_orders: GuardedBucket,
    cart_locks: GuardedBucket,
    user_state: GuardedBucket,
    timers: jetstream::Context,
    postgres: PgPool,
    era: Era,
    visibility: Arc<VisibilityMetrics>,
}

impl ProjectionWriter {
    /// Opens the buckets.
    ///
    /// # Errors
    /// Never in practice: see [`GuardedBucket::open`].
    pub async fn open(cx: &Context) -> anyhow::Result<Self> {
        Ok(Self {
            versions: GuardedBucket::open(&cx.nats, cx.era, Bucket::Versions).await?,
            views: GuardedBucket::open(&cx.nats, cx.era, Bucket::Views).await?,
            active_orders: GuardedBucket::open(&cx.nats, cx.era, Bucket::ActiveOrders).await?,
            cart_locks: GuardedBucket::open(&cx.nats, cx.era, Bucket::CartLocks).await?,
            user_state: GuardedBucket::open(&cx.nats, cx.era, Bucket::UserState).await?,
            timers: cx.nats.jetstream_within(WRITE_TIMEOUT),
            postgres: cx.postgres.clone(),
            era: cx.era,
            visibility: cx.metrics.group(),
        })
    }

    /// Projects aggregates, all keys at once. Returns the addresses and versions of those that are
    /// completely stored in KV now; the others stay in the backlog.
    pub async fn project(&self, states: &[State]) -> Vec<(Address, u64)> {
        if states.is_empty() {
            return Vec::new();
        }
        let (projected, absent) = self.write(states, WhenAbsent::Ask).await;
        if absent.is_empty() {
            return projected;
        }
        // Keys are absent that must have had a value.
        let restored = match self.restore(&absent).await {
            Ok(restored) => restored.projected,
            Err(error) => {
                tracing::warn!(
                    %error, aggregates = absent.len(),
                    "cannot read from SQL what was lost in KV; it stays in the backlog"
                );
                Vec::new()
            }
        };
        [projected, restored].concat()
    }

    /// Projects aggregates of which much may be lost, as they stand in SQL. Trusts no remembered
    /// version of their keys.
    ///
    /// Until they are written they are locked in SQL, shared. Compare-and-set sees no version that
    /// was pushed and then lost with its key; so nobody may commit a newer one meanwhile, or this
    /// one could be pushed after it. What somebody else has locked is left out: he is changing it,
    /// and projects it himself.
    ///
    /// # Errors
    /// If Postgres refuses, or command-handler did not write a row.
    pub async fn restore(&self, addresses: &BTreeSet<Address>) -> sqlx::Result<RestoredAggregates> {
        if addresses.is_empty() {
            return Ok(RestoredAggregates::default());
        }
        bounded(&self.postgres, async |connection| {
            era::read(connection, self.era, async |connection| {
                let locked = lock_free(connection, addresses).await?;
                let free: Vec<Address> = addresses.difference(&locked).cloned().collect();
                let states = states::load(connection, &free).await?;
                let found: BTreeSet<_> = states.iter().map(|state| &state.head().address).collect();
                let absent = free.iter().filter(|address| !found.contains(address));
                Ok(RestoredAggregates {
                    read: states.len(),
                    absent: absent.cloned().collect(),
                    projected: self.write(&states, WhenAbsent::Write).await.0,
                })
            })
            .await
        })
        .await
    }

    /// Sets the timers of the locks that are held. Returns the results with the positions of the
    /// locks in `states`.
    async fn set_timers(&self, states: &[State], absent: WhenAbsent) -> Vec<(usize, PutResult)> {
        // A reprojection may be large, and each timer has a flush of its own; those that are stored
        // by then are set. In a projection somebody waits for an answer.
        let limit = if absent == WhenAbsent::Write { WRITE_TIMEOUT } else { TIMER_TIMEOUT };
        let held = states.iter().enumerate().filter_map(|(at, state)| {
            state.lock().filter(|lock| lock.is_held()).map(|lock| (at, timer(lock)))
        });
        let set = held.map(|(at, (subject, headers, payload))| async move {
            let set =
                async { self.timers.publish_with_headers(subject, headers, payload).await?.await };
            let failed = |why: String| PutResult::Failed(format!("a timer: {why}"));
            let set = match timeout(limit, set).await {
                Ok(Ok(_)) => PutResult::UpToDate,
                Ok(Err(error)) => failed(error.to_string()),
                Err(late) => failed(late.to_string()),
            };
            (at, set)
        });
        join_all(set).await
    }

    /// Writes all keys of these states. Returns the addresses and versions of those that are
    /// completely stored, and the addresses of those with an absent key.
    async fn write(
        &self,
        states: &[State],
        absent: WhenAbsent,
    ) -> (Vec<(Address, u64)>, BTreeSet<Address>) {
        let versions = KeyBatch::of(states, versions);
        let cores = KeyBatch::of(states, core);
        let orders = KeyBatch::of(states, |state| state.order().map(active_order));
        let locks = KeyBatch::of(states, |state| state.lock().map(cart_lock));
        let users = KeyBatch::of(states, |state| state.user().map(|_| auth(state)));
        let (versions, cores, orders, locks, users, timers) = tokio::join!(
            versions.put(&self.versions, absent),
            cores.put(&self.views, absent),
            orders.put(&self.active_orders, absent),
            locks.put(&self.cart_locks, absent),
            users.put(&self.user_state, absent),
            self.set_timers(states, absent),
        );
        for (part, results) in [(Part::Core, &cores), (Part::Auth, &users)] {
            for (at, _) in results.iter().filter(|(_, stored)| *stored == PutResult::UpToDate) {
                self.visibility.observe(part, states[*at].head().part(part).1);
            }
        }
        let results = [versions, cores, orders, locks, users, timers].into_iter().flatten();
        merge(states, results)
    }
}

/// Merges the results of all keys of these states: what a state is as a whole.
fn merge(
    states: &[State],
    results: impl Iterator<Item = (usize, PutResult)>,
) -> (Vec<(Address, u64)>, BTreeSet<Address>) {
    let mut stored = vec![PutResult::UpToDate; states.len()];
    for (at, other) in results.filter(|(_, other)| *other != PutResult::UpToDate) {
        // A state with an absent key has to be read again, whatever else failed.
        if stored[at] != PutResult::Absent {
            stored[at] = other;
        }
    }
    let (mut projected, mut lost) = (Vec::new(), BTreeSet::new());
    for (state, stored) in states.iter().zip(stored) {
        let head = state.head();
        match stored {
            PutResult::UpToDate => projected.push((head.address.clone(), head.version)),
            PutResult::Absent => {
                lost.insert(head.address.clone());
            }
            PutResult::Failed(_) => {}
        }
    }
    (projected, lost)
}

/// Values for one bucket.
struct KeyBatch {
    /// The position of the state that each value belongs to.
    positions: Vec<usize>,
    values: Vec<Put>,
}

impl KeyBatch {
    fn of(states: &[State], value: impl Fn(&State) -> Option<Put>) -> Self {
        let values = states.iter().enumerate();
        let (positions, values) = values.filter_map(|(at, s)| Some((at, value(s)?))).unzip();
        Self { positions, values }
    }

    /// Writes the values. Returns their results with the positions of their states.
    async fn put(self, bucket: &GuardedBucket, absent: WhenAbsent) -> Vec<(usize, PutResult)> {
        if absent == WhenAbsent::Write {
            // A key may be lost although a version of it is remembered.
            bucket.forget(&self.values);
        }
        self.positions.into_iter().zip(bucket.put(&self.values, absent).await).collect()
    }
}
