//! Request coalescing: one statement loads the rows of all queries that wait.
//!
//! **Guarantee.** A statement starts after every query that it answers came: its list of keys is
//! closed when it is sent. So the rows that it finds are never older than an outcome that was
//! answered before the query was sent.
//!
//! While the few statements that may run at once are under way, queries gather for the next one,
//! so the load on Postgres does not grow with the number of queries. Where more keys wait than one
//! statement takes, tenants are served in turn.
//!
//! Each statement calls one function of the schema (`migrations/functions/read_….sql`), since the
//! role of edge has no right on any table. The function takes the tenants whose rows it gives. It
//! first calls `brigade.assert_era` (of users the statement does), which fails on a server in
//! recovery or in another era, rows or no rows: a standby may be behind, and in another era what
//! this worker remembers may never have been. A pooler may lead to such a server at any time. It
//! is stable, so it reads in the snapshot of the statement that calls it.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::{Notify, oneshot};
use tokio_util::task::AbortOnDropHandle;

use super::{
    database::{LoadError, ReadDatabase},
    loader::Loader,
};
use crate::runtime::{
    consume::{FairQueue, HasTenant},
    supervise::supervise,
};

/// Gathers the keys that wait, and loads them in batches.
pub struct BatchLoader<L: Loader> {
    pending: Arc<PendingLoads<L>>,
    /// The rows of the last 50 ms, which a planted bug answers with.
    #[cfg(feature = "planted-bugs")]
    recent: moka::sync::Cache<L::Key, LoadResult<L>>,
    _workers: Vec<AbortOnDropHandle<()>>,
}

/// The loads that wait for a statement. Unbounded: edge bounds the queries in flight.
struct PendingLoads<L: Loader> {
    queue: Mutex<FairQueue<PendingLoad<L>>>,
    arrived: Notify,
}

struct PendingLoad<L: Loader> {
    key: L::Key,
    result: oneshot::Sender<LoadResult<L>>,
}

impl<L: Loader> HasTenant for PendingLoad<L> {
    fn tenant(&self) -> &str {
        self.key.tenant()
    }
}

/// The row of a key; `None` if there is none.
type LoadResult<L> = Result<Option<<L as Loader>::Row>, LoadError>;
/// The keys of one statement, each with all who wait for its row.
type LoadBatch<L> = HashMap<<L as Loader>::Key, Vec<oneshot::Sender<LoadResult<L>>>>;

impl<L: Loader> BatchLoader<L> {
    /// Starts the tasks that run the statements of `loader`.
    #[must_use]
    pub fn new(database: &Arc<ReadDatabase>, loader: L) -> Self {
        let pending = Arc::new(PendingLoads { queue: Mutex::default(), arrived: Notify::new() });
        let loader = Arc::new(loader);
        let workers = (0..L::CONCURRENCY).map(|_| {
            let (database, loader, pending) = (database.clone(), loader.clone(), pending.clone());
            supervise("a loader of queries", move || {
                run_batches(database.clone(), loader.clone(), pending.clone())
            })
        });
        Self {
            _workers: workers.collect(),
            #[cfg(feature = "planted-bugs")]
            recent: moka::sync::Cache::builder()
                .time_to_live(std::time::Duration::from_millis(50))
                .build(),
            pending,
        }
    }

    /// Loads the row of a key by a statement that starts after this call; `None` if there is none.
    ///
    /// # Errors
    /// If Postgres does not answer, or the row cannot be read.
    pub async fn load(&self, key: L::Key) -> LoadResult<L> {
        #[cfg(feature = "planted-bugs")]
        if brigade_contracts::planted::PlantedBug::OldSnapshot.is_planted() {
            if let Some(row) = self.recent.get(&key) {
                return row;
            }
            let row = self.load_now(key.clone()).await;
            self.recent.insert(key, row.clone());
            return row;
        }
        self.load_now(key).await
    }

    async fn load_now(&self, key: L::Key) -> LoadResult<L> {
        let (result, loaded) = oneshot::channel();
        self.pending.push(PendingLoad { key, result });
        loaded.await.unwrap_or(Err(LoadError::Fault))
    }
}

impl<L: Loader> PendingLoads<L> {
    fn push(&self, load: PendingLoad<L>) {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner).push_back(load);
        self.arrived.notify_one();
    }

    /// Takes the loads of one statement, of the tenants in turn: up to so many different keys, and
    /// all that wait for one of them. Empty if nothing waits.
    fn pop_batch(&self) -> LoadBatch<L> {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let mut batch: LoadBatch<L> = HashMap::new();
        while let Some(next) = queue.front()
            && (batch.len() < L::MAX_KEYS || batch.contains_key(&next.key))
            && let Some(PendingLoad { key, result }) = queue.pop()
        {
            batch.entry(key).or_default().push(result);
        }
        if !queue.is_empty() {
            self.arrived.notify_one();
        }
        batch
    }

    /// Waits until something waits, and takes a batch of it.
    async fn next_batch(&self) -> LoadBatch<L> {
        loop {
            let batch = self.pop_batch();
            if !batch.is_empty() {
                return batch;
            }
            self.arrived.notified().await;
        }
    }
}

/// Runs one statement after the other, each for all who wait when it starts.
async fn run_batches<L: Loader>(
    database: Arc<ReadDatabase>,
    loader: Arc<L>,
    pending: Arc<PendingLoads<L>>,
) {
    loop {
        let batch = pending.next_batch().await;
        let keys: Vec<L::Key> = batch.keys().cloned().collect();
        match database.load(&*loader, &keys).await {
            // A row that cannot be read spoils only the response to its own query.
            Err(LoadError::Fault) if keys.len() > 1 => {
                for (key, waiting) in batch {
                    let rows = database.load(&*loader, std::slice::from_ref(&key)).await;
                    respond::<L>(waiting, rows.map(|mut rows| rows.remove(&key)));
                }
            }
            Err(error) => {
                for waiting in batch.into_values() {
                    respond::<L>(waiting, Err(error));
                }
            }
            Ok(mut rows) => {
                for (key, waiting) in batch {
                    respond::<L>(waiting, Ok(rows.remove(&key)));
                }
            }
        }
    }
}

fn respond<L: Loader>(waiting: Vec<oneshot::Sender<LoadResult<L>>>, result: LoadResult<L>) {
    for sender in waiting {
        // A query that was given up needs no response.
        let _given_up = sender.send(result.clone());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use anyhow::Result;
    use brigade_contracts::{Era, WorkerName};
    use brigade_servers::{Binaries, Postgres, config::StackConfig};
    use futures::{FutureExt, future::join_all};
    use sqlx::PgConnection;
    use tokio::sync::Semaphore;

    use super::*;
    use crate::infra::{Health, postgres::superuser_pool};

    /// The sign names the tenant.
    impl HasTenant for i64 {
        fn tenant(&self) -> &str {
            if *self < 0 { "t2" } else { "t1" }
        }
    }

    /// Doubles numbers, and holds its statements back while `held` is set.
    #[derive(Clone)]
    struct Doubled {
        started: Arc<Mutex<Vec<Vec<i64>>>>,
        held: Arc<AtomicBool>,
        go: Arc<Semaphore>,
    }

    impl Loader for Doubled {
        type Key = i64;
        type Row = i64;
        const CONCURRENCY: usize = 3;
        const MAX_KEYS: usize = 60;

        async fn load(
            &self,
            c: &mut PgConnection,
            _: Era,
            keys: &[i64],
        ) -> sqlx::Result<HashMap<i64, i64>> {
            self.started.lock().expect("not poisoned").push(keys.to_vec());
            if self.held.load(Ordering::SeqCst) {
                self.go.acquire().await.expect("open").forget();
            }
            if keys.contains(&13) {
                return Err(sqlx::Error::Decode("unlucky".into()));
            }
            let sql = "select n, n * 2 from unnest($1::bigint[]) as requested (n) where n < 1000";
            Ok(sqlx::query_as::<_, (i64, i64)>(sql)
                .bind(keys)
                .fetch_all(c)
                .await?
                .into_iter()
                .collect())
        }
    }

    #[tokio::test]
    async fn one_statement_answers_all_who_wait_when_it_starts() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let binaries = Binaries::find(&StackConfig::from_env()).await?;
        let postgres = Postgres::start(&binaries.postgres_bin, dir.path(), 0).await?;
        let pool = superuser_pool(&postgres.superuser_url("postgres"), 4)?;
        let database = Arc::new(ReadDatabase::new(pool, Era::FIRST, Health::new(WorkerName::Edge)));
        let loader = Doubled {
            started: Arc::default(),
            held: Arc::new(AtomicBool::new(true)),
            go: Arc::new(Semaphore::new(0)),
        };
        let started = || loader.started.lock().expect("not poisoned").len();
        let batches = BatchLoader::new(&database, loader.clone());

        // As many as may run at once are under way, each with the keys that it started with.
        let mut first = Vec::new();
        for n in 0..3_i64 {
            let mut pending = Box::pin(batches.load(n));
            assert!(pending.as_mut().now_or_never().is_none());
            first.push(pending);
            while started() <= usize::try_from(n)? {
                tokio::task::yield_now().await;
            }
        }
        // All others gather for one more, the same key once.
        let mut gathered: Vec<_> =
            (0..100_i64).map(|n| Box::pin(batches.load(100 + n / 2))).collect();
        gathered.push(Box::pin(batches.load(2000)));
        for pending in &mut gathered {
            assert!(pending.as_mut().now_or_never().is_none());
        }
        loader.held.store(false, Ordering::SeqCst);
        loader.go.add_permits(3);
        let first = join_all(first).await;
        assert_eq!(first, [Ok(Some(0)), Ok(Some(2)), Ok(Some(4))]);
        let gathered = join_all(gathered).await;
        assert_eq!((gathered[0], gathered[99]), (Ok(Some(200)), Ok(Some(298))));
        assert_eq!(gathered[100], Ok(None));
        assert_eq!(started(), 4);
        let keys: Vec<usize> =
            loader.started.lock().expect("not poisoned").iter().map(Vec::len).collect();
        assert_eq!(keys, [1, 1, 1, 51]);

        // Where not all find room, nobody's flood goes first, and the same key takes no room.
        loader.held.store(true, Ordering::SeqCst);
        let mut first = Vec::new();
        for n in 0..3_i64 {
            let mut pending = Box::pin(batches.load(n));
            assert!(pending.as_mut().now_or_never().is_none());
            first.push(pending);
            while started() <= usize::try_from(4 + n)? {
                tokio::task::yield_now().await;
            }
        }
        let flood = std::iter::repeat_n(100, 50).chain(100..300);
        let mut pending: Vec<_> =
            flood.chain([-1, -2]).map(|key| Box::pin(batches.load(key))).collect();
        for pending in &mut pending {
            assert!(pending.as_mut().now_or_never().is_none());
        }
        loader.held.store(false, Ordering::SeqCst);
        loader.go.add_permits(3);
        join_all(first).await;
        assert!(join_all(pending).await.iter().all(|answer| matches!(answer, Ok(Some(_)))));
        let all = loader.started.lock().expect("not poisoned")[7..].to_vec();
        let first = all.iter().find(|keys| keys.contains(&100)).expect("the oldest");
        assert!(first.contains(&-1) && first.contains(&-2), "{first:?}");
        let mut sizes: Vec<usize> = all.iter().map(Vec::len).collect();
        sizes.sort_unstable();
        assert_eq!(sizes, [22, 60, 60, 60]);

        // One that cannot be answered spoils only its own answer.
        let mixed = join_all([1, 13, 2].map(|n| batches.load(n))).await;
        assert_eq!(mixed, [Ok(Some(2)), Err(LoadError::Fault), Ok(Some(4))]);

        // One that is too slow fails by itself, and Postgres is there for all others.
        loader.held.store(true, Ordering::SeqCst);
        let mut slow = Box::pin(batches.load(7));
        let before = started();
        assert!(slow.as_mut().now_or_never().is_none());
        while started() == before {
            // Else it would be waited for without end.
            assert!(slow.as_mut().now_or_never().is_none());
            tokio::task::yield_now().await;
        }
        loader.held.store(false, Ordering::SeqCst);
        assert_eq!(slow.await, Err(LoadError::Unavailable));
        assert_eq!(batches.load(8).await, Ok(Some(16)));
        Ok(())
    }
}
