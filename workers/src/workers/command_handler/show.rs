//! Shows aggregates: writes `versions` and the parts that command-handler owns, at their newest
//! versions, so that a newer show speaks for all older ones.

use std::{sync::Arc, time::Duration};

use async_nats::{HeaderMap, jetstream};
use brigade_contracts::{
    Address, Part, header,
    key::{self, Bucket, ENDED_TTL, REMOVED_TTL, Versions},
    lock::Due,
    subject,
};
use brigade_domain::{Lock, Order, State};
use bytes::Bytes;
use futures::future::join_all;
use serde_json::value::RawValue;
use sqlx::PgPool;
use tokio::time::timeout;

use super::patient::{PATIENCE, Patient};
use crate::{
    infra::{Context, Metrics, Put, PutResult, WhenAbsent, postgres::bounded},
    store::states,
};

/// How long somebody who waits for an answer waits for a timer.
const TIMERS_WITHIN: Duration = Duration::from_millis(250);

/// The buckets that command-handler writes.
pub struct Show {
    versions: Patient,
    views: Patient,
    active_orders: Patient,
    cart_locks: Patient,
    user_state: Patient,
    timers: jetstream::Context,
    postgres: PgPool,
    metrics: Arc<Metrics>,
}

impl Show {
    /// # Errors
    /// Never in practice: see [`Patient::open`].
    pub async fn open(cx: &Context) -> anyhow::Result<Self> {
        Ok(Self {
            versions: Patient::open(&cx.nats, Bucket::Versions).await?,
            views: Patient::open(&cx.nats, Bucket::Views).await?,
            active_orders: Patient::open(&cx.nats, Bucket::ActiveOrders).await?,
            cart_locks: Patient::open(&cx.nats, Bucket::CartLocks).await?,
            user_state: Patient::open(&cx.nats, Bucket::UserState).await?,
            timers: jetstream::ContextBuilder::new()
                .timeout(PATIENCE)
                .ack_timeout(PATIENCE)
                .build(cx.nats.client.clone()),
            postgres: cx.postgres.clone(),
            metrics: cx.metrics.clone(),
        })
    }

    /// Shows aggregates, all keys at once. Returns those of which everything stands in KV now,
    /// with their versions; the others stay noted.
    pub async fn show(&self, states: &[State]) -> Vec<(Address, u64)> {
        if states.is_empty() {
            return Vec::new();
        }
        let (shown, absent) = self.write(states, WhenAbsent::Ask).await;
        if absent.is_empty() {
            return shown;
        }
        // Nothing stands at keys that must have had a value. What SQL has now is the newest.
        let again = match self.read(&absent).await {
            Ok(states) => self.write(&states, WhenAbsent::Write).await.0,
            Err(error) => {
                tracing::warn!(%error, "cannot ask whether a lost key is still the newest");
                Vec::new()
            }
        };
        [shown, again].concat()
    }

    /// Shows aggregates that were read from SQL just now, of which much may be lost. Trusts nothing
    /// that was written of them before.
    pub async fn show_again(&self, states: &[State]) -> Vec<(Address, u64)> {
        if states.is_empty() {
            return Vec::new();
        }
        self.write(states, WhenAbsent::Write).await.0
    }

    async fn read(&self, addresses: &[Address]) -> sqlx::Result<Vec<State>> {
        bounded(&self.postgres, async |connection| states::read(connection, addresses).await).await
    }

    /// Sets the timers of the locks that are held.
    async fn set_timers(&self, states: &[State], absent: WhenAbsent) -> Vec<(usize, PutResult)> {
        // What is shown again may be much, each with a flush of its own, and those that are stored
        // by then are set. Else somebody waits for an answer.
        let within = if absent == WhenAbsent::Write { PATIENCE } else { TIMERS_WITHIN };
        let held = states.iter().enumerate().filter_map(|(at, state)| {
            state.lock().filter(|lock| lock.is_held()).map(|lock| (at, timer(lock)))
        });
        let set = held.map(|(at, (subject, headers, payload))| async move {
            let set =
                async { self.timers.publish_with_headers(subject, headers, payload).await?.await };
            let failed = |why: String| PutResult::Failed(format!("a timer: {why}"));
            let set = match timeout(within, set).await {
                Ok(Ok(_)) => PutResult::UpToDate,
                Ok(Err(error)) => failed(error.to_string()),
                Err(late) => failed(late.to_string()),
            };
            (at, set)
        });
        join_all(set).await
    }

    /// Returns the shown and the absent ones.
    async fn write(
        &self,
        states: &[State],
        absent: WhenAbsent,
    ) -> (Vec<(Address, u64)>, Vec<Address>) {
        let versions = Puts::of(states, versions);
        let cores = Puts::of(states, core);
        let rows = Puts::of(states, |state| state.order().map(active_row));
        let locks = Puts::of(states, |state| state.lock().map(cart_lock));
        let users = Puts::of(states, |state| state.user().map(|_| auth(state)));
        let (versions, cores, rows, locks, users, timers) = tokio::join!(
            versions.put(&self.versions, absent),
            cores.put(&self.views, absent),
            rows.put(&self.active_orders, absent),
            locks.put(&self.cart_locks, absent),
            users.put(&self.user_state, absent),
            self.set_timers(states, absent),
        );
        for (part, puts) in [(Part::Core, &cores), (Part::Auth, &users)] {
            for (at, _) in puts.iter().filter(|(_, stored)| *stored == PutResult::UpToDate) {
                self.metrics.visible(part, states[*at].head().part(part).1);
            }
        }
        let mut stored = vec![PutResult::UpToDate; states.len()];
        let all = [versions, cores, rows, locks, users, timers].into_iter().flatten();
        for (at, other) in all.filter(|(_, other)| *other != PutResult::UpToDate) {
            // What is absent anywhere has to be asked about, whatever else failed.
            if stored[at] != PutResult::Absent {
                stored[at] = other;
            }
        }
        let mut shown = Vec::new();
        let mut lost = Vec::new();
        for (state, stored) in states.iter().zip(stored) {
            let head = state.head();
            match stored {
                PutResult::UpToDate => shown.push((head.address.clone(), head.version)),
                PutResult::Absent => lost.push(head.address.clone()),
                PutResult::Failed(_) => {}
            }
        }
        (shown, lost)
    }
}

/// Values for one bucket, with the places of the states that they are of.
struct Puts {
    places: Vec<usize>,
    values: Vec<Put>,
}

impl Puts {
    fn of(states: &[State], value: impl Fn(&State) -> Option<Put>) -> Self {
        let values = states.iter().enumerate();
        let (places, values) = values.filter_map(|(at, s)| Some((at, value(s)?))).unzip();
        Self { places, values }
    }

    /// What may be lost is looked at, whatever is remembered of it.
    async fn put(self, bucket: &Patient, absent: WhenAbsent) -> Vec<(usize, PutResult)> {
        if absent == WhenAbsent::Write {
            bucket.forget(&self.values);
        }
        self.places.into_iter().zip(bucket.put(&self.values, absent).await).collect()
    }
}

/// Locks have none: nobody asks for their versions.
fn versions(state: &State) -> Option<Put> {
    if state.lock().is_some() {
        return None;
    }
    let head = state.head();
    let value = Versions { version: head.version, parts: head.part_versions(), at: head.at };
    Some(Put {
        key: key::versions(&head.address),
        version: head.version,
        value: serde_json::to_vec(&value).expect("versions serialise").into(),
        ttl: state.has_ended().then_some(ENDED_TTL),
    })
}

/// Locks and users have none.
fn core(state: &State) -> Option<Put> {
    if state.lock().is_some() || state.user().is_some() {
        return None;
    }
    let head = state.head();
    Some(Put {
        key: key::view(&head.address, Part::Core),
        version: head.part(Part::Core).0,
        value: bytes(state.part(Part::Core)),
        ttl: state.has_ended().then_some(ENDED_TTL),
    })
}

fn auth(user: &State) -> Put {
    let head = user.head();
    Put {
        key: key::user_state(&head.address, Part::Auth),
        version: head.part(Part::Auth).0,
        value: bytes(user.part(Part::Auth)),
        ttl: None,
    }
}

fn cart_lock(lock: &Lock) -> Put {
    Put {
        key: key::cart_lock(&lock.head.address),
        version: lock.head.version,
        value: bytes(State::Lock(lock.clone()).part(Part::Core)),
        ttl: (!lock.is_held()).then_some(REMOVED_TTL),
    }
}

fn bytes(part: Box<RawValue>) -> Bytes {
    Bytes::from(String::from(Box::<str>::from(part)))
}

/// The message that wakes cart-lock-expiry at the lock's deadline; of a deadline that has passed,
/// at once. Put again it is the same timer.
fn timer(lock: &Lock) -> (String, HeaderMap, Bytes) {
    let cart = lock.cart();
    let mut headers = HeaderMap::new();
    headers.insert(header::SCHEDULE, format!("@at {}", lock.expires_at));
    headers.insert(header::SCHEDULE_TARGET, subject::lock_due(&cart, lock.token));
    let due = Due { owner: lock.head.address.id.clone() };
    let payload = serde_json::to_vec(&due).expect("a Token serialises");
    (subject::lock_timer(&cart, lock.token), headers, payload.into())
}

fn active_row(order: &Order) -> Put {
    Put {
        key: key::active_order(&order.head.address, Part::Core),
        version: order.head.part(Part::Core).0,
        value: bytes(order.active_core()),
        ttl: (!order.status.is_active()).then_some(REMOVED_TTL),
    }
}
