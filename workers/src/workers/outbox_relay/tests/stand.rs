//! Both servers, with the users and roles of the table of permissions, and what tests ask them.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use anyhow::{Context as _, Result, ensure};
use async_nats::jetstream::{self, consumer};
use brigade_contracts::{
    Address, Aggregate, WorkerName, event::CART_ITEM_ADDED, header, permissions, shard_of, subject,
};
use brigade_servers::{Binaries, NatsServer, Postgres, config::StackConfig};
use futures::StreamExt;
use sqlx::{PgConnection, PgPool, postgres::PgPoolOptions};
use tempfile::TempDir;
use tokio::time::{sleep, timeout};
use uuid::Uuid;

use crate::{
    fleet::{Instance, Servers, Settings},
    infra::{Context, FailPoints, Health, Metrics, Nats},
    operations::{migrate, provision},
    workers::outbox_relay::RelayMetrics,
};

/// Ends a test that would wait for ever; none comes near it.
const LIMIT: Duration = Duration::from_secs(60);
const NAME: &str = "outbox-relay";
pub const PAYLOAD: &str = r#"{"data":{"item_id":"i1"},"after":{"ended":false}}"#;

pub struct Stand {
    pub nats: NatsServer,
    pub postgres: Postgres,
    /// Of a superuser.
    pub sql: PgPool,
    /// Of a user who may do anything.
    pub client: async_nats::Client,
    metrics: Arc<Metrics>,
    _dir: TempDir,
}

/// A message of the stream.
pub struct Stored {
    pub cart: String,
    pub version: u64,
    pub message: async_nats::Message,
}

impl Stand {
    pub async fn start() -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let binaries = Binaries::find(&StackConfig::from_env()).await?;
        let anything = permissions::NatsUser {
            account: permissions::Account::Fleet,
            name: "test".into(),
            publish: vec![">".into()],
            publish_deny: Vec::new(),
            subscribe: vec![">".into()],
        };
        let worker = permissions::worker(WorkerName::OutboxRelay);
        let users = permissions::accounts([(&anything, "test"), (&worker, NAME)]);
        let nats_dir = dir.path().join("nats");
        let nats = NatsServer::start(&binaries.nats_server, &nats_dir, 0, &users).await?;
        let postgres =
            Postgres::start(&binaries.postgres_bin, &dir.path().join("postgres"), 0).await?;
        let sql = PgPoolOptions::new()
            .max_connections(8)
            .connect_lazy(&postgres.superuser_url("postgres"))?;
        migrate::run(&postgres.superuser_url("postgres"), |_| Some(NAME.to_owned())).await?;
        provision::run(&format!("nats://test:test@127.0.0.1:{}", nats.port()), 1).await?;
        let client =
            async_nats::ConnectOptions::with_user_and_password("test".into(), "test".into())
                .reconnect_delay_callback(|_| Duration::from_millis(10))
                .connect(format!("127.0.0.1:{}", nats.port()))
                .await?;
        let metrics = Arc::new(Metrics::new());
        Ok(Self { nats, postgres, sql, client, metrics, _dir: dir })
    }

    pub fn relay(&self, fail: FailPoints) -> Instance {
        Instance::start(WorkerName::OutboxRelay, self.servers(), self.metrics.clone(), fail)
    }

    pub fn metrics(&self) -> Arc<RelayMetrics> {
        self.metrics.group()
    }

    fn servers(&self) -> Servers {
        Servers {
            nats_url: format!("nats://{NAME}:{NAME}@127.0.0.1:{}", self.nats.port()),
            postgres_url: self.postgres.url(NAME, NAME, "postgres"),
            replicas: 1,
            settings: Settings::default(),
        }
    }

    /// What a relay gets, for parts of one.
    pub async fn context(&self) -> Result<Context> {
        let health = Health::new(WorkerName::OutboxRelay);
        let servers = self.servers();
        let nats = Nats::connect(&servers.nats_url, &health, &self.metrics).await?;
        eventually("the connection", async || {
            Ok(nats.client.connection_state() == async_nats::connection::State::Connected)
        })
        .await?;
        Ok(Context {
            worker: WorkerName::OutboxRelay,
            instance: "by-hand".into(),
            nats,
            postgres: PgPool::connect_lazy(&servers.postgres_url)?,
            health,
            metrics: self.metrics.clone(),
            drain: Default::default(),
            fail: FailPoints::default(),
            topology: Arc::new(brigade_contracts::topology::Topology::compiled_in()),
        })
    }

    /// Commits events of carts, each (cart, version), as command-handler does, and wakes.
    pub async fn commit(&self, events: &[(usize, u64)]) -> Result<()> {
        let mut connection = self.sql.acquire().await?;
        insert(&mut connection, events).await?;
        let shards =
            events.iter().fold(0_u16, |mask, (cart, _)| mask | 1 << shard_of(&address(*cart)));
        self.client.publish(subject::OUTBOX_WAKE, shards.to_string().into()).await?;
        Ok(())
    }

    pub async fn outbox_is_empty(&self) -> Result<()> {
        let is_empty = "select not exists (select from brigade.outbox)";
        eventually("the empty outbox", async || {
            Ok(sqlx::query_scalar(is_empty).fetch_one(&self.sql).await?)
        })
        .await
    }

    pub async fn count(&self, table: &str) -> Result<i64> {
        let count = sqlx::AssertSqlSafe(format!("select count(*) from {table}"));
        Ok(sqlx::query_scalar(count).fetch_one(&self.sql).await?)
    }

    /// How many shards each relay holds, sorted.
    pub async fn shares(&self) -> Result<Vec<i64>> {
        let shares = "select count(*) from brigade.leases
                      where name like 'outbox-relay.share.%' and holder <> ''
                      group by holder order by 1";
        Ok(sqlx::query_scalar(shares).fetch_all(&self.sql).await?)
    }

    /// All messages of the stream, in its order.
    pub async fn stored(&self) -> Result<Vec<Stored>> {
        let js = jetstream::new(self.client.clone());
        let mut stream = js.get_stream("EVENTS").await?;
        let count = stream.info().await?.state.messages;
        let ordered = consumer::pull::OrderedConfig::default();
        let messages = stream.create_consumer(ordered).await?.messages().await?;
        let mut messages = messages.take(usize::try_from(count)?);
        let mut stored = Vec::new();
        while let Some(message) = messages.next().await {
            let message = message.map_err(|error| anyhow::anyhow!(error))?.message.clone();
            let headers = message.headers.as_ref().context("headers")?;
            let id = headers.get(header::CE_SUBJECT).map(|id| id.as_str());
            let (address, _) = subject::parse_event(&message.subject, id).context("an event")?;
            let version = headers.get("Aggregate-Version").context("a version")?;
            let version = version.as_str().parse()?;
            stored.push(Stored { cart: address.id.to_string(), version, message });
        }
        Ok(stored)
    }

    /// Checks that every event of SQL is there and that of each cart the first occurrences are in
    /// order. Returns how many messages are repetitions.
    pub async fn check(&self) -> Result<usize> {
        let mut newest: BTreeMap<String, u64> = BTreeMap::new();
        let mut repeated = 0;
        for stored in self.stored().await? {
            let newest = newest.entry(stored.cart.clone()).or_default();
            match stored.version {
                version if version <= *newest => repeated += 1,
                version => {
                    ensure!(version == *newest + 1, "{}: {version} after {newest}", stored.cart);
                    *newest = version;
                }
            }
        }
        let sql: Vec<(String, i64)> =
            sqlx::query_as("select id, max(version) from brigade.events group by id order by id")
                .fetch_all(&self.sql)
                .await?;
        let sql: BTreeMap<_, _> = sql.into_iter().map(|(id, n)| (id, n.cast_unsigned())).collect();
        ensure!(newest == sql, "the stream does not hold what SQL holds");
        Ok(repeated)
    }
}

/// The first `n` events of carts that take turns: 0, 1, …, carts-1, 0, 1, …
pub fn in_turns(n: usize, carts: usize) -> Vec<(usize, u64)> {
    (0..n).map(|i| (i % carts, (i / carts) as u64 + 1)).collect()
}

pub fn address(cart: usize) -> Address {
    Address::new("t1", Aggregate::Cart, &format!("c{cart}")).expect("a token")
}

/// With command-handler's own statement.
pub async fn insert(connection: &mut PgConnection, events: &[(usize, u64)]) -> Result<()> {
    let carts: Vec<Address> = events.iter().map(|(cart, _)| address(*cart)).collect();
    let n = events.len();
    let nothing = Vec::<String>::new;
    sqlx::query(include_str!("../../command_handler/record.sql"))
        .bind(time::OffsetDateTime::UNIX_EPOCH)
        .bind(nothing())
        .bind(nothing())
        .bind(nothing())
        .bind(Vec::<Vec<u8>>::new())
        .bind(nothing())
        .bind((0..n).map(|_| Uuid::now_v7()).collect::<Vec<_>>())
        .bind(vec!["t1"; n])
        .bind(vec!["cart"; n])
        .bind(carts.iter().map(|cart| cart.id.as_str()).collect::<Vec<_>>())
        .bind(events.iter().map(|(_, version)| version.cast_signed()).collect::<Vec<_>>())
        .bind(vec![CART_ITEM_ADDED.name; n])
        .bind(vec![PAYLOAD; n])
        .bind(vec!["k1"; n])
        .bind(vec![None::<String>; n])
        .bind(carts.iter().map(|cart| i16::from(shard_of(cart))).collect::<Vec<_>>())
        .bind(nothing())
        .bind(nothing())
        .bind(nothing())
        .bind(Vec::<i64>::new())
        .bind(nothing())
        .bind(nothing())
        .bind(nothing())
        .bind(Vec::<i64>::new())
        .bind(nothing())
        .execute(connection)
        .await?;
    Ok(())
}

/// Asks again until it is so. Errors are answers of servers that are down.
pub async fn eventually(what: &str, is_so: impl AsyncFn() -> Result<bool>) -> Result<()> {
    let asked = async {
        while !is_so().await.unwrap_or(false) {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(LIMIT, asked).await.with_context(|| format!("still waiting for {what}"))
}
