//! Questions to Postgres, asked together: one statement answers all who wait.
//!
//! A statement starts after every question that it answers came: its list of keys is closed when
//! it is sent. So what it finds is never older than an outcome that was answered before the
//! question was put. While the few statements that may run at once are under way, questions
//! gather for the next one; so the load on Postgres does not grow with the number of queries.
//! Where more wait than one statement takes, tenants are served in turn.
//!
//! Each statement says `where (select pg_current_wal_lsn()) is not null`, which fails on a server
//! in recovery, rows or no rows (it is asked once, before anything is read): a standby may be
//! behind, and confirms nothing. That the session is one of a primary was seen when it was made
//! ([`refuse_standby`](crate::infra::postgres::refuse_standby)); this holds where a pooler stands
//! in between as well.

use std::{
    collections::HashMap,
    future::Future,
    hash::Hash,
    sync::{Arc, Mutex, PoisonError},
};

use brigade_contracts::{Address, Token};
use sqlx::PgConnection;
use tokio::sync::{Notify, oneshot};
use tokio_util::task::AbortOnDropHandle;

use super::database::{Database, Unanswered};
use crate::runtime::{
    consume::{FairQueue, HasTenant},
    supervise::supervise,
};

/// A statement that answers many questions of one kind.
pub trait Question: Send + Sync + 'static {
    type Key: HasTenant + Clone + Eq + Hash + Send + Sync + 'static;
    type Row: Clone + Send + 'static;
    /// Most statements under way.
    const AT_ONCE: usize;
    /// Most keys in one statement: fewer where each brings much, so that none is slow.
    const MAX_KEYS: usize = 1024;

    /// What is there for these keys; keys without a row are left out.
    fn ask(
        &self,
        connection: &mut PgConnection,
        keys: &[Self::Key],
    ) -> impl Future<Output = sqlx::Result<HashMap<Self::Key, Self::Row>>> + Send;
}

/// Gathers questions of one kind.
pub struct Together<Q: Question> {
    gathered: Arc<Gathered<Q>>,
    _askers: Vec<AbortOnDropHandle<()>>,
}

/// The questions that wait. Unbounded: edge bounds the queries in hand.
struct Gathered<Q: Question> {
    waiting: Mutex<FairQueue<Waiting<Q>>>,
    came: Notify,
}

struct Waiting<Q: Question> {
    key: Q::Key,
    answer: oneshot::Sender<Answer<Q>>,
}

impl<Q: Question> HasTenant for Waiting<Q> {
    fn tenant(&self) -> &str {
        self.key.tenant()
    }
}

impl HasTenant for Token {
    fn tenant(&self) -> &str {
        self.as_str()
    }
}

impl HasTenant for Address {
    fn tenant(&self) -> &str {
        self.tenant.as_str()
    }
}

/// Something of a tenant's, with what else is asked.
impl<K: HasTenant, T> HasTenant for (K, T) {
    fn tenant(&self) -> &str {
        self.0.tenant()
    }
}

type Answer<Q> = Result<Option<<Q as Question>::Row>, Unanswered>;
type Askers<Q> = HashMap<<Q as Question>::Key, Vec<oneshot::Sender<Answer<Q>>>>;

impl<Q: Question> Together<Q> {
    #[must_use]
    pub fn new(database: &Arc<Database>, question: Q) -> Self {
        let gathered = Arc::new(Gathered { waiting: Mutex::default(), came: Notify::new() });
        let question = Arc::new(question);
        let askers = (0..Q::AT_ONCE).map(|_| {
            let (database, question, gathered) =
                (database.clone(), question.clone(), gathered.clone());
            supervise("a question to Postgres", move || {
                ask_all(database.clone(), question.clone(), gathered.clone())
            })
        });
        Self { _askers: askers.collect(), gathered }
    }

    /// # Errors
    /// Where Postgres does not answer.
    pub async fn get(&self, key: Q::Key) -> Answer<Q> {
        let (answer, answered) = oneshot::channel();
        self.gathered.put(Waiting { key, answer });
        answered.await.unwrap_or(Err(Unanswered::Fault))
    }
}

impl<Q: Question> Gathered<Q> {
    fn put(&self, waiting: Waiting<Q>) {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).push_back(waiting);
        self.came.notify_one();
    }

    /// Takes what one statement may answer, of the tenants in turn: so many different keys, and
    /// whoever asks for one of them.
    fn take(&self) -> Askers<Q> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let mut askers: Askers<Q> = HashMap::new();
        while let Some(next) = waiting.front()
            && (askers.len() < Q::MAX_KEYS || askers.contains_key(&next.key))
            && let Some(Waiting { key, answer }) = waiting.pop()
        {
            askers.entry(key).or_default().push(answer);
        }
        if !waiting.is_empty() {
            self.came.notify_one();
        }
        askers
    }

    /// Waits until somebody asks.
    async fn some(&self) -> Askers<Q> {
        loop {
            let askers = self.take();
            if !askers.is_empty() {
                return askers;
            }
            self.came.notified().await;
        }
    }
}

/// One statement after the other, each for all who wait when it starts.
async fn ask_all<Q: Question>(
    database: Arc<Database>,
    question: Arc<Q>,
    gathered: Arc<Gathered<Q>>,
) {
    loop {
        let askers = gathered.some().await;
        let keys: Vec<Q::Key> = askers.keys().cloned().collect();
        match database.ask(&*question, &keys).await {
            // One row that cannot be read spoils only the answer to its own question.
            Err(Unanswered::Fault) if keys.len() > 1 => {
                for (key, askers) in askers {
                    let keys = std::slice::from_ref(&key);
                    let rows = database.ask(&*question, keys).await;
                    tell::<Q>(askers, rows.map(|mut rows| rows.remove(&key)));
                }
            }
            Err(unanswered) => {
                for askers in askers.into_values() {
                    tell::<Q>(askers, Err(unanswered));
                }
            }
            Ok(mut rows) => {
                for (key, askers) in askers {
                    tell::<Q>(askers, Ok(rows.remove(&key)));
                }
            }
        }
    }
}

fn tell<Q: Question>(askers: Vec<oneshot::Sender<Answer<Q>>>, answer: Answer<Q>) {
    for asker in askers {
        // Somebody who does not wait any more needs no answer.
        let _gone = asker.send(answer.clone());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use anyhow::Result;
    use brigade_contracts::WorkerName;
    use brigade_servers::{Binaries, Postgres, config::StackConfig};
    use futures::{FutureExt, future::join_all};
    use tokio::sync::Semaphore;

    use super::*;
    use crate::infra::{Health, postgres::pool};

    /// The tenant is the sign.
    impl HasTenant for i64 {
        fn tenant(&self) -> &str {
            if *self < 0 { "t2" } else { "t1" }
        }
    }

    /// Doubles numbers, and waits before it does for as long as it is told to.
    #[derive(Clone)]
    struct Doubled {
        started: Arc<Mutex<Vec<Vec<i64>>>>,
        held: Arc<AtomicBool>,
        go: Arc<Semaphore>,
    }

    impl Question for Doubled {
        type Key = i64;
        type Row = i64;
        const AT_ONCE: usize = 3;
        const MAX_KEYS: usize = 60;

        async fn ask(&self, c: &mut PgConnection, keys: &[i64]) -> sqlx::Result<HashMap<i64, i64>> {
            self.started.lock().expect("not poisoned").push(keys.to_vec());
            if self.held.load(Ordering::SeqCst) {
                self.go.acquire().await.expect("open").forget();
            }
            if keys.contains(&13) {
                return Err(sqlx::Error::Decode("unlucky".into()));
            }
            let sql = "select n, n * 2 from unnest($1::bigint[]) as asked (n) where n < 1000";
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
        let pool = pool(&postgres.superuser_url("postgres"), "test", 4)?;
        let database = Arc::new(Database::new(pool, Health::new(WorkerName::Edge)));
        let question = Doubled {
            started: Arc::default(),
            held: Arc::new(AtomicBool::new(true)),
            go: Arc::new(Semaphore::new(0)),
        };
        let started = || question.started.lock().expect("not poisoned").len();
        let together = Together::new(&database, question.clone());

        // As many as may run at once are under way, each with the keys that it started with.
        let mut first = Vec::new();
        for n in 0..3_i64 {
            let mut asked = Box::pin(together.get(n));
            assert!(asked.as_mut().now_or_never().is_none());
            first.push(asked);
            while started() <= usize::try_from(n)? {
                tokio::task::yield_now().await;
            }
        }
        // All others gather for one more, the same key once.
        let mut gathered: Vec<_> =
            (0..100_i64).map(|n| Box::pin(together.get(100 + n / 2))).collect();
        gathered.push(Box::pin(together.get(2000)));
        for asked in &mut gathered {
            assert!(asked.as_mut().now_or_never().is_none());
        }
        question.held.store(false, Ordering::SeqCst);
        question.go.add_permits(3);
        let first = join_all(first).await;
        assert_eq!(first, [Ok(Some(0)), Ok(Some(2)), Ok(Some(4))]);
        let gathered = join_all(gathered).await;
        assert_eq!((gathered[0], gathered[99]), (Ok(Some(200)), Ok(Some(298))));
        assert_eq!(gathered[100], Ok(None));
        assert_eq!(started(), 4);
        let keys: Vec<usize> =
            question.started.lock().expect("not poisoned").iter().map(Vec::len).collect();
        assert_eq!(keys, [1, 1, 1, 51]);

        // Where not all find room, nobody's flood goes first, and the same key takes no room.
        question.held.store(true, Ordering::SeqCst);
        let mut first = Vec::new();
        for n in 0..3_i64 {
            let mut asked = Box::pin(together.get(n));
            assert!(asked.as_mut().now_or_never().is_none());
            first.push(asked);
            while started() <= usize::try_from(4 + n)? {
                tokio::task::yield_now().await;
            }
        }
        let flood = std::iter::repeat_n(100, 50).chain(100..300);
        let mut asked: Vec<_> =
            flood.chain([-1, -2]).map(|key| Box::pin(together.get(key))).collect();
        for asked in &mut asked {
            assert!(asked.as_mut().now_or_never().is_none());
        }
        question.held.store(false, Ordering::SeqCst);
        question.go.add_permits(3);
        join_all(first).await;
        assert!(join_all(asked).await.iter().all(|answer| matches!(answer, Ok(Some(_)))));
        let all = question.started.lock().expect("not poisoned")[7..].to_vec();
        let first = all.iter().find(|keys| keys.contains(&100)).expect("the oldest");
        assert!(first.contains(&-1) && first.contains(&-2), "{first:?}");
        let mut sizes: Vec<usize> = all.iter().map(Vec::len).collect();
        sizes.sort_unstable();
        assert_eq!(sizes, [22, 60, 60, 60]);

        // One that cannot be answered spoils only its own answer.
        let mixed = join_all([1, 13, 2].map(|n| together.get(n))).await;
        assert_eq!(mixed, [Ok(Some(2)), Err(Unanswered::Fault), Ok(Some(4))]);

        // One that is too slow fails by itself, and Postgres is there for all others.
        question.held.store(true, Ordering::SeqCst);
        let mut slow = Box::pin(together.get(7));
        let before = started();
        assert!(slow.as_mut().now_or_never().is_none());
        while started() == before {
            // Else it would be waited for without end.
            assert!(slow.as_mut().now_or_never().is_none());
            tokio::task::yield_now().await;
        }
        question.held.store(false, Ordering::SeqCst);
        assert_eq!(slow.await, Err(Unanswered::Away));
        assert_eq!(together.get(8).await, Ok(Some(16)));
        Ok(())
    }
}
