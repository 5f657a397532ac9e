//! The content of views: from memory, from KV or from SQL.
//!
//! Memory and KV serve a version only if it is exactly the confirmed one, and KV only what is
//! byte for byte as this build writes it, so all three give the same bytes: one ETag names one
//! body. An entry that is late, lost or garbage costs a read of the next source, nothing else.

use std::{collections::HashMap, sync::Arc};

use brigade_contracts::{
    Address, Aggregate, Era, Money, Part, cart,
    key::{self, Bucket},
    order, payment, product, query, table,
};
use brigade_domain::State;
use bytes::Bytes;
use futures::future::join_all;
use moka::{ops::compute::Op, sync::Cache};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::value::RawValue;
use sqlx::PgConnection;

use super::{loader::Loader, versions::ConfirmedVersions};
use crate::{
    infra::{Kv, Nats},
    store::states,
    workers::edge::metrics::ContentSource,
};

/// The size of the cache of bodies, in bytes. A usual body has 1 to 2 KiB.
const MAX_CACHE_BYTES: u64 = 64 * 1024 * 1024;
/// The size of a cache entry without its body, in bytes: address, versions, the cache's own.
const ENTRY_OVERHEAD: usize = 400;
/// The number of aggregates whose highest version is remembered; about 150 bytes each.
const MAX_SEEN: u64 = 100_000;

/// A view as it is answered: JSON of the shape [`query::ViewBody`], and its versions.
#[derive(Debug, PartialEq)]
pub struct EncodedView {
    pub versions: ConfirmedVersions,
    pub bytes: Bytes,
}

/// The result of a look into memory and KV.
#[derive(Debug)]
pub enum CacheLookup {
    /// The body of exactly the confirmed versions.
    Exact(Arc<EncodedView>, ContentSource),
    /// A part of a later version: more was committed after the version was confirmed.
    Later,
    /// Nothing, something older, or garbage.
    Missing,
}

/// Bodies in memory and in KV, and the highest version that was seen of each aggregate.
pub struct ContentCache {
    memory: Cache<Address, Arc<EncodedView>>,
    seen: Cache<Address, u64>,
    views: Kv,
}

impl ContentCache {
    /// Opens the bucket `views`.
    ///
    /// # Errors
    /// Never in practice: see [`Kv::open`].
    pub async fn open(nats: &Nats, era: Era) -> anyhow::Result<Self> {
        let weight = |_: &Address, body: &Arc<EncodedView>| {
            u32::try_from(body.bytes.len() + ENTRY_OVERHEAD).unwrap_or(u32::MAX)
        };
        Ok(Self {
            memory: Cache::builder().max_capacity(MAX_CACHE_BYTES).weigher(weight).build(),
            seen: Cache::new(MAX_SEEN),
            views: Kv::open(nats, era, Bucket::Views).await?,
        })
    }

    /// Returns the highest version of an aggregate that this edge has seen; 0 if it has seen none.
    #[must_use]
    pub fn highest_seen(&self, address: &Address) -> u64 {
        self.seen.get(address).unwrap_or(0)
    }

    /// Remembers that a version was committed.
    pub fn record_seen(&self, address: &Address, version: u64) {
        if self.highest_seen(address) < version {
            self.seen.entry_by_ref(address).and_upsert_with(|known| {
                known.map_or(version, |known| known.into_value().max(version))
            });
        }
    }

    /// Stores a body, unless a later one is there.
    pub fn insert(&self, address: &Address, body: &Arc<EncodedView>) {
        self.record_seen(address, body.versions.version);
        self.memory.entry_by_ref(address).and_compute_with(|known| match known {
            Some(known) if known.value().versions.version > body.versions.version => Op::Nop,
            _ => Op::Put(body.clone()),
        });
    }

    /// Returns whatever body is in memory: for a planted bug alone.
    pub fn remembered(&self, address: &Address) -> Option<Arc<EncodedView>> {
        self.memory.get(address)
    }

    /// Looks for the body of exactly these versions, in memory and then in KV.
    pub async fn find(&self, address: &Address, confirmed: &ConfirmedVersions) -> CacheLookup {
        if let Some(body) = self.memory.get(address) {
            if body.versions == *confirmed {
                return CacheLookup::Exact(body, ContentSource::Memory);
            }
            if body.versions.version > confirmed.version {
                return CacheLookup::Later;
            }
        }
        self.find_in_kv(address, confirmed).await
    }

    async fn find_in_kv(&self, address: &Address, confirmed: &ConfirmedVersions) -> CacheLookup {
        let parts = address.aggregate.parts();
        let keys = parts.iter().map(|part| key::view(address, *part));
        let read = join_all(keys.map(async |key| self.views.get(&key).await.ok().flatten())).await;
        let found: Vec<Option<KvPart>> = parts
            .iter()
            .zip(read)
            .map(|(part, entry)| read_part(address.aggregate, *part, &entry?.value))
            .collect();
        let versions = || found.iter().map(|part| part.as_ref().map_or(0, |part| part.version));
        let confirmed_parts = || parts.iter().map(|part| confirmed.part(*part));
        for version in versions() {
            self.record_seen(address, version);
        }
        if versions().zip(confirmed_parts()).any(|(found, confirmed)| found > confirmed) {
            return CacheLookup::Later;
        }
        if !versions().eq(confirmed_parts()) {
            return CacheLookup::Missing;
        }
        let body = match &found[..] {
            [Some(core), Some(payments)] => {
                let due = core.amount.less(payments.amount);
                EncodedView::new(confirmed.clone(), &core.raw, Some((&payments.raw, due)))
            }
            [Some(core)] => EncodedView::new(confirmed.clone(), &core.raw, None),
            _ => return CacheLookup::Missing,
        };
        let body = Arc::new(body);
        self.insert(address, &body);
        CacheLookup::Exact(body, ContentSource::Kv)
    }
}

/// A part from KV that is byte for byte as this build would write it. One of another build may
/// lack a field or order them otherwise: the same version would have two bodies.
struct KvPart {
    version: u64,
    /// The total of a core, or the amount paid; zero where there is neither.
    amount: Money,
    raw: Box<RawValue>,
}

/// Reads a part; `None` unless its bytes are what this build writes.
fn read_part(aggregate: Aggregate, part: Part, value: &[u8]) -> Option<KvPart> {
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
        (Aggregate::Product, Part::Core) => {
            read(value, |p: &product::Core| (p.version, Money::ZERO))
        }
        _ => None,
    }
}

fn read<P>(value: &[u8], figures: impl Fn(&P) -> (u64, Money)) -> Option<KvPart>
where
    P: Serialize + DeserializeOwned,
{
    let (part, raw) = decode_canonical(value)?;
    let (version, amount) = figures(&part);
    Some(KvPart { version, amount, raw })
}

/// Decodes a value of KV, and returns its bytes as well; `None` unless they are what this build
/// writes.
pub fn decode_canonical<P: Serialize + DeserializeOwned>(
    value: &[u8],
) -> Option<(P, Box<RawValue>)> {
    let part: P = serde_json::from_slice(value).ok()?;
    let written = serde_json::to_string(&part).ok().filter(|text| text.as_bytes() == value)?;
    Some((part, RawValue::from_string(written).ok()?))
}

impl EncodedView {
    /// Writes a view. `payments` has the part of that name and the amount due, of aggregates that
    /// are paid.
    fn new(
        versions: ConfirmedVersions,
        core: &RawValue,
        payments: Option<(&RawValue, Money)>,
    ) -> Self {
        let version = versions.version;
        let (payments, due) = payments.unzip();
        let view = query::ViewBody { version, core, payments, due };
        let bytes = serde_json::to_vec(&view).expect("parts that are JSON and numbers serialise");
        Self { versions, bytes: bytes.into() }
    }

    fn from_state(state: &State) -> Self {
        let head = state.head();
        let versions = ConfirmedVersions { version: head.version, parts: head.part_versions() };
        let is_paid = head.address.aggregate.parts().contains(&Part::Payments);
        let payments = is_paid.then(|| state.part(Part::Payments));
        // Never negative: a due is what is left, or nothing.
        let due = Money::new(state.due()).unwrap_or_default();
        let payments = payments.as_deref().map(|payments| (payments, due));
        Self::new(versions, &state.part(Part::Core), payments)
    }
}

/// Loads version and parts of aggregates together, as bodies.
pub struct ViewBodyLoader;

impl Loader for ViewBodyLoader {
    type Key = Address;
    type Row = Arc<EncodedView>;
    /// Rare: memory and KV have nearly everything.
    const CONCURRENCY: usize = 1;
    /// Each brings a whole aggregate.
    const MAX_KEYS: usize = 64;

    async fn load(
        &self,
        connection: &mut PgConnection,
        era: Era,
        addresses: &[Address],
    ) -> sqlx::Result<HashMap<Address, Arc<EncodedView>>> {
        let states = states::read(connection, era, addresses).await?;
        let keyed = |state: &State| {
            (state.head().address.clone(), Arc::new(EncodedView::from_state(state)))
        };
        Ok(states.iter().map(keyed).collect())
    }
}
