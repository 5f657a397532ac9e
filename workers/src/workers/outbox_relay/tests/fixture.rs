//! Servers with an outbox that tests fill and a stream that they read.

use std::sync::Arc;
use std::{
    collections::BTreeMap,
    ops::{Deref, DerefMut},
};

use anyhow::{Context as _, Result, ensure};
use async_nats::jetstream::{self, consumer};
use brigade_contracts::{
    Address, Aggregate, WorkerName, event::CART_ITEM_ADDED, header, shard_of, subject,
};
use futures::StreamExt;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::{
    fleet::Instance,
    infra::{Context, FailPoints},
    testing::{SUPERUSER, TestServers, until},
    workers::outbox_relay::RelayMetrics,
};

pub const PAYLOAD: &str = r#"{"data":{"item_id":"i1"},"after":{"ended":false}}"#;

/// The servers of one test, and a client that may do anything.
pub struct RelayFixture {
    servers: TestServers,
    pub client: async_nats::Client,
}

/// A message of the stream.
pub struct Stored {
    pub cart: String,
    pub version: u64,
    pub message: async_nats::Message,
}

impl Deref for RelayFixture {
    type Target = TestServers;

    fn deref(&self) -> &TestServers {
        &self.servers
    }
}

impl DerefMut for RelayFixture {
    fn deref_mut(&mut self) -> &mut TestServers {
        &mut self.servers
    }
}

impl RelayFixture {
    pub async fn start() -> Result<Self> {
        Self::on(TestServers::start().await?).await
    }

    /// Starts servers of which Postgres may be killed as well.
    pub async fn start_with_own_postgres() -> Result<Self> {
        Self::on(TestServers::start_with_own_postgres().await?).await
    }

    async fn on(servers: TestServers) -> Result<Self> {
        let client = servers.connect(SUPERUSER).await?;
        Ok(Self { servers, client })
    }

    /// Returns the metrics of the relays of this test.
    pub fn metrics(&self) -> Arc<RelayMetrics> {
        self.metrics.group()
    }

    /// Starts a relay with these fail points.
    pub fn relay(&self, fail: FailPoints) -> Instance {
        let servers = self.servers.servers(WorkerName::OutboxRelay);
        Instance::start(WorkerName::OutboxRelay, servers, self.metrics.clone(), fail)
    }

    /// Returns what a relay is given, for parts of one.
    pub async fn context(&self) -> Result<Context> {
        self.servers.context(WorkerName::OutboxRelay).await
    }

    /// Commits events of carts, each (cart, version), as command-handler does, and wakes relays.
    pub async fn commit(&self, events: &[(usize, u64)]) -> Result<()> {
        let mut connection = self.sql.acquire().await?;
        insert(&mut connection, events).await?;
        let shards =
            events.iter().fold(0_u16, |mask, (cart, _)| mask | 1 << shard_of(&address(*cart)));
        self.client.publish(subject::OUTBOX_WAKE, shards.to_string().into()).await?;
        Ok(())
    }

    /// Waits until the outbox is empty.
    pub async fn outbox_is_empty(&self) {
        self.until_count("brigade.outbox", 0).await;
    }

    /// Waits until a table has this many rows.
    pub async fn until_count(&self, table: &str, rows: i64) {
        until(&format!("{rows} rows of {table}"), || async {
            (self.count(table).await.ok()? == rows).then_some(())
        })
        .await;
    }

    /// Counts the rows of a table.
    pub async fn count(&self, table: &str) -> Result<i64> {
        let count = sqlx::AssertSqlSafe(format!("select count(*) from {table}"));
        Ok(sqlx::query_scalar(count).fetch_one(&self.sql).await?)
    }

    /// Counts the shards that each relay holds, sorted.
    pub async fn shares(&self) -> Result<Vec<i64>> {
        let shares = "select count(*) from brigade.leases
                      where name like 'outbox-relay.share.%' and holder <> ''
                      group by holder order by 1";
        Ok(sqlx::query_scalar(shares).fetch_all(&self.sql).await?)
    }

    /// Returns all messages of the stream, in its order.
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

    /// Checks that the stream holds every event of SQL, and the first occurrences of each cart's in
    /// order. Returns the number of repetitions.
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

/// Returns the first `n` events of carts in rotation: 0, 1, …, carts-1, 0, 1, …
pub fn in_rotation(n: usize, carts: usize) -> Vec<(usize, u64)> {
    (0..n).map(|i| (i % carts, (i / carts) as u64 + 1)).collect()
}

pub fn address(cart: usize) -> Address {
    Address::new("t1", Aggregate::Cart, &format!("c{cart}")).expect("a token")
}

/// Inserts events with command-handler's own statement.
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
        .bind(nothing())
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
        .bind(vec![None::<String>; n])
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
        .execute(connection)
        .await?;
    Ok(())
}
