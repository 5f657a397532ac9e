//! The rounds of the audit: each page of aggregates, looked at until a discrepancy is certain.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use brigade_contracts::{Address, Part, key::Bucket};
use brigade_domain::State;
use futures::future::join_all;
use tokio::time::{Duration, sleep};

use super::{
    super::{
        VerifierMetrics,
        discrepancy::KeyDiscrepancy,
        heads::{ExpiryMargin, HeadPage, load_head_page},
        heal::in_backlog,
    },
    expected::expected_keys,
    position::AuditPosition,
};
use crate::{
    infra::{
        Context, Kv,
        health::Duty,
        postgres::{Failure, Pooled, bounded, failure},
    },
    store::states,
};

/// Aggregates that are compared a second, about, with up to five keys each.
const COMPARED: usize = 500;
/// Rows that are read for that at most: those of aggregates that ended long ago have no keys.
const WALKED: usize = 10_000;
/// Rows of a page.
const PAGE: i64 = 500;
/// Aggregates that are in memory at once, of up to some 100 KiB each.
const CHUNK: usize = 100;
/// Reads under way at once: the audit leaves the server to others.
const READS: usize = 4;
/// Between the looks at a suspect; longer than a commit takes to be projected.
const PAUSE: Duration = Duration::from_millis(1500);
/// Looks after the first one.
const LOOKS: usize = 2;
/// Keys that are about to expire are nobody's loss.
const MARGIN: ExpiryMargin =
    ExpiryMargin { ended: Duration::from_secs(60 * 60), removed: Duration::from_secs(60) };

/// The buckets that are audited.
pub struct Audit {
    pub(super) metrics: Arc<VerifierMetrics>,
    versions: Kv,
    views: Kv,
    active_orders: Kv,
    cart_locks: Kv,
    user_state: Kv,
}

/// A key that differs from SQL, and the part whose writer heals it.
pub struct Suspect {
    pub address: Address,
    pub part: Part,
    pub discrepancy: KeyDiscrepancy,
}

/// Suspects by bucket and key.
pub type Suspects = BTreeMap<(&'static str, String), Suspect>;

impl Audit {
    /// # Errors
    /// Never in practice: see [`Kv::open`].
    pub async fn open(cx: &Context) -> anyhow::Result<Self> {
        Ok(Self {
            metrics: cx.metrics.group(),
            versions: Kv::open(&cx.nats, cx.era, Bucket::Versions).await?,
            views: Kv::open(&cx.nats, cx.era, Bucket::Views).await?,
            active_orders: Kv::open(&cx.nats, cx.era, Bucket::ActiveOrders).await?,
            cart_locks: Kv::open(&cx.nats, cx.era, Bucket::CartLocks).await?,
            user_state: Kv::open(&cx.nats, cx.era, Bucket::UserState).await?,
        })
    }

    /// Audits what comes after a position. Returns the keys that have to be healed, and the position
    /// after them; `None` if the round is over.
    ///
    /// # Errors
    /// If either server fails; the same comes again then.
    pub async fn look(
        &self,
        cx: &Context,
        duty: &Duty,
        begin: &AuditPosition,
    ) -> anyhow::Result<(Suspects, Option<AuditPosition>)> {
        let (mut compared, mut walked) = (0, 0);
        let mut at = begin.clone();
        loop {
            let of = (at.kind, None);
            let mut page = load_head_page(cx, of, &at.after, PAGE, MARGIN).await?;
            duty.went_round();
            walked += page.walked;
            compared += page.heads.iter().filter(|head| head.kept).count();
            let next = page.next.take();
            let is_over = next.is_none();
            let suspects = self.confirmed_suspects(cx, duty, &page).await?;
            let Some(next) = at.advance(next) else { return Ok((suspects, None)) };
            at = next;
            if is_over || !suspects.is_empty() || compared >= COMPARED || walked >= WALKED {
                return Ok((suspects, Some(at)));
            }
        }
    }

    /// Returns the keys of a page that show the same discrepancy at each look.
    async fn confirmed_suspects(
        &self,
        cx: &Context,
        duty: &Duty,
        page: &HeadPage,
    ) -> anyhow::Result<Suspects> {
        let kept: Vec<Address> =
            page.heads.iter().filter(|head| head.kept).map(|head| head.address.clone()).collect();
        let listed: BTreeSet<&Address> =
            page.heads.iter().filter(|head| head.listed).map(|head| &head.address).collect();
        let mut suspects = Suspects::new();
        for chunk in kept.chunks(CHUNK) {
            suspects.extend(self.compare(cx, chunk, &listed).await?);
            self.metrics.audited.inc_by(chunk.len() as u64);
            duty.went_round();
        }
        for _ in 0..LOOKS {
            if suspects.is_empty() {
                break;
            }
            tokio::select! {
                () = sleep(PAUSE) => {}
                () = cx.drain.cancelled() => return Ok(Suspects::new()),
            }
            let addresses: BTreeSet<&Address> = suspects.values().map(|s| &s.address).collect();
            let addresses: Vec<Address> = addresses.into_iter().cloned().collect();
            duty.went_round();
            let mut second = Suspects::new();
            for chunk in addresses.chunks(CHUNK) {
                second.extend(self.compare(cx, chunk, &listed).await?);
                duty.went_round();
            }
            let in_flight = in_backlog(cx, &addresses).await?;
            suspects.retain(|key, suspect| {
                second.get(key).is_some_and(|second| second.discrepancy == suspect.discrepancy)
                    && !in_flight.contains(&suspect.address.to_string())
            });
        }
        Ok(suspects)
    }

    async fn compare(
        &self,
        cx: &Context,
        addresses: &[Address],
        listed: &BTreeSet<&Address>,
    ) -> anyhow::Result<Suspects> {
        let states = self.load_states(cx, addresses).await?;
        let expected: Vec<_> = states
            .iter()
            .flat_map(|state| expected_keys(state, listed.contains(&state.head().address)))
            .collect();
        let mut suspects = Suspects::new();
        for some in expected.chunks(READS) {
            let cached = join_all(some.iter().map(|e| self.bucket(e.bucket).get(&e.key))).await;
            for (expected, cached) in some.iter().zip(cached) {
                let Some(discrepancy) = expected.compare(cached?.as_ref()) else { continue };
                let (address, part) = (expected.address.clone(), expected.part);
                let key = (expected.bucket.as_str(), expected.key.clone());
                suspects.insert(key, Suspect { address, part, discrepancy });
            }
        }
        Ok(suspects)
    }

    /// Loads aggregates; one that cannot be read is reported, and hides no other one of its page.
    async fn load_states(&self, cx: &Context, addresses: &[Address]) -> sqlx::Result<Vec<State>> {
        let load = async |some: &[Address]| {
            let load = async |c: &mut Pooled| states::load_without_hashes(c, some).await;
            bounded(&cx.postgres, load).await
        };
        match load(addresses).await {
            Err(error) if failure(&error) == Failure::Fault => {}
            done => return done,
        }
        let mut states = Vec::new();
        for address in addresses {
            match load(std::slice::from_ref(address)).await {
                Ok(one) => states.extend(one),
                Err(error) if failure(&error) == Failure::Fault => {
                    self.metrics.audit_unreadable.inc();
                    tracing::error!(
                        worker = %cx.worker, %error, %address,
                        "aggregate cannot be read from SQL: its keys are not audited"
                    );
                }
                Err(error) => return Err(error),
            }
        }
        Ok(states)
    }

    fn bucket(&self, bucket: Bucket) -> &Kv {
        match bucket {
            Bucket::Views => &self.views,
            Bucket::ActiveOrders => &self.active_orders,
            Bucket::CartLocks => &self.cart_locks,
            Bucket::UserState => &self.user_state,
            Bucket::Versions | Bucket::Attempts => &self.versions,
        }
    }
}
