//! The rounds of the audit: each page of aggregates, looked at until a discrepancy is certain.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use brigade_contracts::{Address, Aggregate, Part, key::Bucket};
use brigade_domain::State;
use futures::future::join_all;
use tokio::time::{Duration, sleep};

use super::{
    super::{
        VerifierMetrics,
        discrepancy::KeyDiscrepancy,
        heads::{ExpiryMargin, FIRST_KIND, HeadPage, KeyCursor, load_head_page, next_kind},
        heal::in_backlog,
    },
    expected::expected_keys,
};
use crate::{
    infra::{
        Context, Kv,
        health::Duty,
        postgres::{Failure, Pooled, bounded, failure},
    },
    store::states,
};

/// Aggregates of a page, up to five keys each.
const PAGE: i64 = 200;
/// Reads under way at once: the audit leaves the server to others.
const READS: usize = 4;
/// Between the looks at a suspect; longer than a commit takes to be projected.
const PAUSE: Duration = Duration::from_millis(1500);
/// Looks after the first one.
const LOOKS: usize = 2;
/// Keys that are about to expire are nobody's loss.
const MARGIN: ExpiryMargin =
    ExpiryMargin { ended: Duration::from_secs(60 * 60), removed: Duration::from_secs(60) };

/// The audit's place in its round, and the buckets.
pub struct Audit {
    pub(super) metrics: Arc<VerifierMetrics>,
    versions: Kv,
    views: Kv,
    active_orders: Kv,
    cart_locks: Kv,
    user_state: Kv,
    kind: Aggregate,
    after: KeyCursor,
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
            kind: FIRST_KIND,
            after: KeyCursor::default(),
        })
    }

    /// Audits the next page. Returns the keys that have to be healed.
    ///
    /// # Errors
    /// If either server fails; the page comes again in the next round.
    pub async fn next_page(&mut self, cx: &Context, duty: &Duty) -> anyhow::Result<Suspects> {
        let mut page = load_head_page(cx, self.kind, &self.after, PAGE, MARGIN).await?;
        duty.went_round();
        self.advance(page.next.take());
        self.confirmed_suspects(cx, duty, &page).await
    }

    fn advance(&mut self, next: Option<KeyCursor>) {
        if next.is_none() {
            self.kind = next_kind(self.kind).unwrap_or_else(|| {
                self.metrics.audit_went_round();
                FIRST_KIND
            });
        }
        self.after = next.unwrap_or_default();
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
        let mut suspects = self.compare(cx, &kept, &listed).await?;
        self.metrics.audited.inc_by(kept.len() as u64);
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
            let second = self.compare(cx, &addresses, &listed).await?;
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
