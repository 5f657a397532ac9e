//! The content of views: from memory, from KV or from SQL.
//!
//! Memory and KV serve a version only if it is exactly the confirmed one, and KV only what is
//! byte for byte as this build writes it, so all three give the same bytes: one ETag names one
//! body. What is late, lost or garbage costs a read of the next source, nothing else.

use std::{collections::HashMap, sync::Arc};

use brigade_contracts::{
    Address, Aggregate, Money, Part, cart,
    key::{self, Bucket},
    order, payment, query, table,
};
use brigade_domain::State;
use bytes::Bytes;
use futures::future::join_all;
use moka::{ops::compute::Op, sync::Cache};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::value::RawValue;
use sqlx::PgConnection;

use super::{confirm::Versions, together::Question};
use crate::{
    infra::{Kv, Nats, postgres::refuse_standby},
    store::states,
};

/// Bodies kept in memory, in bytes. A usual body has 1 to 2 KiB.
const MEMORY: u64 = 64 * 1024 * 1024;
/// What an entry takes besides its body: address, versions, the cache's own.
const ENTRY: usize = 400;
/// Aggregates whose highest version is remembered; about 150 bytes each.
const REMEMBERED: u64 = 100_000;

/// A view as it is answered.
#[derive(Debug, PartialEq)]
pub struct Body {
    pub versions: Versions,
    pub bytes: Bytes,
}

/// What memory and KV have.
#[derive(Debug)]
pub enum Found {
    Exactly(Arc<Body>, &'static str),
    /// A part of a later version: more was committed after the version was confirmed.
    Later,
    /// Nothing, something older, or garbage.
    Nothing,
}

pub struct Content {
    memory: Cache<Address, Arc<Body>>,
    /// The highest version that was ever seen of an aggregate.
    seen: Cache<Address, u64>,
    views: Kv,
}

impl Content {
    /// # Errors
    /// Never in practice: see [`Kv::open`].
    pub async fn open(nats: &Nats) -> anyhow::Result<Self> {
        let weight = |_: &Address, body: &Arc<Body>| {
            u32::try_from(body.bytes.len() + ENTRY).unwrap_or(u32::MAX)
        };
        Ok(Self {
            memory: Cache::builder().max_capacity(MEMORY).weigher(weight).build(),
            seen: Cache::new(REMEMBERED),
            views: Kv::open(nats, Bucket::Views).await?,
        })
    }

    /// The highest version of an aggregate that this edge has seen, 0 where it has seen none.
    #[must_use]
    pub fn seen(&self, address: &Address) -> u64 {
        self.seen.get(address).unwrap_or(0)
    }

    /// A version that was committed, whoever says so.
    pub fn see(&self, address: &Address, version: u64) {
        if self.seen(address) < version {
            self.seen.entry_by_ref(address).and_upsert_with(|known| {
                known.map_or(version, |known| known.into_value().max(version))
            });
        }
    }

    /// Keeps a body, unless a later one is there.
    pub fn keep(&self, address: &Address, body: &Arc<Body>) {
        self.see(address, body.versions.version);
        self.memory.entry_by_ref(address).and_compute_with(|known| match known {
            Some(known) if known.value().versions.version > body.versions.version => Op::Nop,
            _ => Op::Put(body.clone()),
        });
    }

    /// Looks for the content of exactly these versions.
    pub async fn find(&self, address: &Address, confirmed: &Versions) -> Found {
        if let Some(body) = self.memory.get(address) {
            if body.versions == *confirmed {
                return Found::Exactly(body, "memory");
            }
            if body.versions.version > confirmed.version {
                return Found::Later;
            }
        }
        self.find_in_kv(address, confirmed).await
    }

    async fn find_in_kv(&self, address: &Address, confirmed: &Versions) -> Found {
        let parts = address.aggregate.parts();
        let keys = parts.iter().map(|part| key::view(address, *part));
        let read = join_all(keys.map(async |key| self.views.get(&key).await.ok().flatten())).await;
        let found: Vec<Option<Genuine>> = parts
            .iter()
            .zip(read)
            .map(|(part, entry)| genuine(address.aggregate, *part, &entry?.value))
            .collect();
        let versions = || found.iter().map(|piece| piece.as_ref().map_or(0, |piece| piece.version));
        let confirmed_parts = || parts.iter().map(|part| confirmed.part(*part));
        for version in versions() {
            self.see(address, version);
        }
        if versions().zip(confirmed_parts()).any(|(found, confirmed)| found > confirmed) {
            return Found::Later;
        }
        if !versions().eq(confirmed_parts()) {
            return Found::Nothing;
        }
        let body = match &found[..] {
            [Some(core), Some(payments)] => {
                let due = core.amount.less(payments.amount);
                Body::new(confirmed.clone(), &core.raw, Some((&payments.raw, due)))
            }
            [Some(core)] => Body::new(confirmed.clone(), &core.raw, None),
            _ => return Found::Nothing,
        };
        let body = Arc::new(body);
        self.keep(address, &body);
        Found::Exactly(body, "kv")
    }
}

/// A part from KV that is byte for byte as this build would write it. One of another build may
/// lack a field or order them otherwise: the same version would have two bodies.
struct Genuine {
    version: u64,
    /// The total, or what is paid, where there is such a thing.
    amount: Money,
    raw: Box<RawValue>,
}

fn genuine(aggregate: Aggregate, part: Part, value: &[u8]) -> Option<Genuine> {
    match (aggregate, part) {
        (Aggregate::Cart, Part::Core) => read(value, |p: &cart::Core| (p.version, p.total)),
        (Aggregate::Cart, Part::Payments) => read(value, |p: &cart::Payments| (p.version, p.paid)),
        (Aggregate::Order, Part::Core) => read(value, |p: &order::Core| (p.version, p.total)),
        (Aggregate::Order, Part::Payments) => {
            read(value, |p: &order::Payments| (p.version, p.paid))
        }
        (Aggregate::Payment, Part::Core) => {
            read(value, |p: &payment::Core| (p.version, Money::ZERO))
        }
        (Aggregate::Table, Part::Core) => read(value, |p: &table::Core| (p.version, Money::ZERO)),
        _ => None,
    }
}

fn read<P>(value: &[u8], of: impl Fn(&P) -> (u64, Money)) -> Option<Genuine>
where
    P: Serialize + DeserializeOwned,
{
    let (part, raw) = as_written(value)?;
    let (version, amount) = of(&part);
    Some(Genuine { version, amount, raw })
}

/// What stands in KV, read, and its bytes; `None` unless they are what this build writes.
pub fn as_written<P: Serialize + DeserializeOwned>(value: &[u8]) -> Option<(P, Box<RawValue>)> {
    let part: P = serde_json::from_slice(value).ok()?;
    let written = serde_json::to_string(&part).ok().filter(|text| text.as_bytes() == value)?;
    Some((part, RawValue::from_string(written).ok()?))
}

impl Body {
    /// `payments` with what is due, of those that are paid.
    fn new(versions: Versions, core: &RawValue, payments: Option<(&RawValue, Money)>) -> Self {
        let version = versions.version;
        let (payments, due) = payments.unzip();
        let view = query::ViewBody { version, core, payments, due };
        let bytes = serde_json::to_vec(&view).expect("parts that are JSON and numbers serialise");
        Self { versions, bytes: bytes.into() }
    }

    fn of(state: &State) -> Self {
        let head = state.head();
        let versions = Versions { version: head.version, parts: head.part_versions() };
        let is_paid = head.address.aggregate.parts().contains(&Part::Payments);
        let payments = is_paid.then(|| state.part(Part::Payments));
        // Never negative: a due is what is left, or nothing.
        let due = Money::new(state.due()).unwrap_or_default();
        let payments = payments.as_deref().map(|payments| (payments, due));
        Self::new(versions, &state.part(Part::Core), payments)
    }
}

/// Asks for version and parts together.
pub struct Read;

impl Question for Read {
    type Key = Address;
    type Row = Arc<Body>;
    /// Rare: memory and KV have nearly everything.
    const AT_ONCE: usize = 1;
    /// Whole aggregates.
    const MAX_KEYS: usize = 64;

    async fn ask(
        &self,
        connection: &mut PgConnection,
        addresses: &[Address],
    ) -> sqlx::Result<HashMap<Address, Arc<Body>>> {
        // It is not certain that this is the session in which the version was confirmed.
        refuse_standby(connection).await?;
        let states = states::load(connection, addresses).await?;
        let body = |state: &State| (state.head().address.clone(), Arc::new(Body::of(state)));
        Ok(states.iter().map(body).collect())
    }
}
