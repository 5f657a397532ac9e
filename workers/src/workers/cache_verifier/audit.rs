//! The rolling audit: compares KV with SQL, a page of aggregates a second, by key and around again.
//!
//! A **finding** is a key that says something else than SQL, at three looks with a pause in
//! between, while no note says that the aggregate is still to be shown: what is in flight is none.
//!
//! | finding | what it is | what is done |
//! |---|---|---|
//! | missing | no value, where none can have expired | healed |
//! | stale | a lower version, or a value that is not ours | healed |
//! | different | this version, but another content | healed: an equal version is written again |
//! | ahead | a higher version than SQL has ever had | reported only |
//!
//! A key that is ahead cannot be healed without lowering a version, which no writer does: a late
//! one could not be told from it. It comes from outside (a restored database, a forged write), and no
//! query believes it. An operator purges the key (`nats stream purge KV_views --subject …`); then
//! it is missing, and healed.

use std::collections::{BTreeMap, BTreeSet};

use brigade_contracts::{
    Address, Aggregate, Part,
    key::{self, Bucket, Versions},
    order,
};
use brigade_domain::{State, active_payment};
use futures::future::join_all;
use serde_json::Value;
use tokio::time::{Duration, sleep};

use super::{
    AUDIT_LEASE,
    heal::{Heal, Margin, noted, page},
};
use crate::{
    infra::{
        Context, Entry, Kv,
        health::Duty,
        postgres::{Failure, bounded, failure},
    },
    store::states,
};

/// Aggregates of a page, up to five keys each.
const PAGE: i64 = 200;
/// Reads under way at once: the audit leaves the server to others.
const READS: usize = 4;
/// Between the looks at a suspect; longer than a commit takes to be shown and projected.
const PAUSE: Duration = Duration::from_millis(1500);
/// Looks after the first one.
const LOOKS: usize = 2;
/// Keys that are about to expire are nobody's loss.
const MARGIN: Margin =
    Margin { ended: Duration::from_secs(60 * 60), removed: Duration::from_secs(60) };

/// The audit's place in SQL, and the buckets.
pub struct Audit {
    versions: Kv,
    views: Kv,
    active_orders: Kv,
    cart_locks: Kv,
    user_state: Kv,
    kind: Aggregate,
    after: (String, String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Finding {
    Missing,
    Stale,
    Ahead,
    Different,
}

impl Finding {
    fn as_str(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Stale => "stale",
            Self::Ahead => "ahead",
            Self::Different => "different",
        }
    }
}

/// A key, and what SQL says of it.
struct Expected {
    address: Address,
    bucket: Bucket,
    /// Who heals it.
    part: Part,
    key: String,
    version: u64,
    value: Value,
}

/// Finding by bucket and key.
type Findings = BTreeMap<(&'static str, String), (Address, Part, Finding)>;

impl Audit {
    /// # Errors
    /// Never in practice: see [`Kv::open`].
    pub async fn open(cx: &Context) -> anyhow::Result<Self> {
        Ok(Self {
            versions: Kv::open(&cx.nats, Bucket::Versions).await?,
            views: Kv::open(&cx.nats, Bucket::Views).await?,
            active_orders: Kv::open(&cx.nats, Bucket::ActiveOrders).await?,
            cart_locks: Kv::open(&cx.nats, Bucket::CartLocks).await?,
            user_state: Kv::open(&cx.nats, Bucket::UserState).await?,
            kind: Aggregate::Cart,
            after: Default::default(),
        })
    }

    /// Audits the next page, and heals what is wrong.
    ///
    /// # Errors
    /// Those of either server; the page comes again on the next way round.
    pub async fn next_page(&mut self, cx: &Context, duty: &Duty) -> anyhow::Result<()> {
        let page = page(cx, self.kind, &self.after, PAGE, MARGIN).await?;
        duty.went_round();
        match page.last {
            Some(last) => self.after = last,
            None => {
                self.after = Default::default();
                self.kind = match self.kind {
                    Aggregate::Cart => Aggregate::Order,
                    Aggregate::Order => Aggregate::Payment,
                    Aggregate::Payment => Aggregate::Table,
                    Aggregate::Table => Aggregate::Lock,
                    Aggregate::Lock => Aggregate::User,
                    _ => {
                        cx.metrics.audit_went_round();
                        Aggregate::Cart
                    }
                };
            }
        }
        let kept: Vec<Address> =
            page.rows.iter().filter(|row| row.kept).map(|row| row.address.clone()).collect();
        let listed: BTreeSet<&Address> =
            page.rows.iter().filter(|row| row.listed).map(|row| &row.address).collect();
        let mut findings = self.compare(cx, &kept, &listed).await?;
        cx.metrics.audited.inc_by(kept.len() as u64);
        for _ in 0..LOOKS {
            if findings.is_empty() {
                return Ok(());
            }
            tokio::select! {
                () = sleep(PAUSE) => {}
                () = cx.drain.cancelled() => return Ok(()),
            }
            let suspects: BTreeSet<Address> =
                findings.values().map(|(address, ..)| address.clone()).collect();
            let suspects: Vec<Address> = suspects.into_iter().collect();
            duty.went_round();
            let again = self.compare(cx, &suspects, &listed).await?;
            let in_flight = noted(cx, &suspects).await?;
            findings.retain(|key, (address, _, finding)| {
                again.get(key).is_some_and(|(.., again)| again == finding)
                    && !in_flight.contains(&address.to_string())
            });
        }
        act(cx, duty, &findings).await
    }

    async fn compare(
        &self,
        cx: &Context,
        addresses: &[Address],
        listed: &BTreeSet<&Address>,
    ) -> anyhow::Result<Findings> {
        let states = read(cx, addresses).await?;
        let expected = states.iter().flat_map(|s| expected(s, listed.contains(&s.head().address)));
        let mut findings = Findings::new();
        for some in expected.collect::<Vec<_>>().chunks(READS) {
            let found = join_all(some.iter().map(|e| self.bucket(e.bucket).get(&e.key))).await;
            for (expected, found) in some.iter().zip(found) {
                if let Some(finding) = judge(expected, found?.as_ref()) {
                    let Expected { address, bucket, part, key, .. } = expected;
                    let suspect = (address.clone(), *part, finding);
                    findings.insert((bucket.as_str(), key.clone()), suspect);
                }
            }
        }
        Ok(findings)
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

/// Reads aggregates; one that cannot be read is told of, and hides no other one of its page.
async fn read(cx: &Context, addresses: &[Address]) -> sqlx::Result<Vec<State>> {
    let read = async |some: &[Address]| {
        bounded(&cx.postgres, async |connection| states::read(connection, some).await).await
    };
    match read(addresses).await {
        Err(error) if failure(&error) == Failure::Fault => {}
        done => return done,
    }
    let mut states = Vec::new();
    for address in addresses {
        match read(std::slice::from_ref(address)).await {
            Ok(one) => states.extend(one),
            Err(error) if failure(&error) == Failure::Fault => {
                cx.metrics.audit_unreadable.inc();
                tracing::error!(worker = %cx.worker, %error, %address, "cannot be read or audited");
            }
            Err(error) => return Err(error),
        }
    }
    Ok(states)
}

/// Reports and heals what was confirmed.
async fn act(cx: &Context, duty: &Duty, findings: &Findings) -> anyhow::Result<()> {
    let (mut own, mut projected) = (BTreeMap::new(), BTreeSet::new());
    for ((bucket, key), (address, part, finding)) in findings {
        let (bucket, finding_text) = (*bucket, finding.as_str());
        cx.metrics.audit_findings.with_label_values(&[bucket, finding_text]).inc();
        if *finding == Finding::Ahead {
            tracing::error!(
                worker = %cx.worker, bucket, key, "ahead of SQL; purge the key to have it healed"
            );
            continue;
        }
        tracing::warn!(worker = %cx.worker, bucket, key, finding = finding_text, "healed");
        // A note of version 0 speaks of whatever version SQL has when it is shown.
        if part.is_projected() {
            projected.insert((address.clone(), *part));
        } else {
            own.insert(address.clone(), 0);
        }
    }
    let heal = Heal::new(cx, AUDIT_LEASE, duty);
    if !own.is_empty() {
        heal.note(&own.into_iter().collect::<Vec<_>>()).await?;
    }
    if !projected.is_empty() {
        heal.repeat(&projected.into_iter().collect::<Vec<_>>()).await?;
    }
    Ok(())
}

/// The keys of an aggregate.
fn expected(state: &State, listed: bool) -> Vec<Expected> {
    let head = state.head();
    let address = &head.address;
    let (core, payments) = (state.part(Part::Core), state.part(Part::Payments));
    let expected = |bucket, part, key, version, value: Value| Expected {
        address: address.clone(),
        bucket,
        part,
        key,
        version,
        value,
    };
    let json = |text: &str| serde_json::from_str(text).expect("a part is JSON");
    if let State::Lock(_) = state {
        let key = key::cart_lock(address);
        return vec![expected(Bucket::CartLocks, Part::Core, key, head.version, json(core.get()))];
    }
    let versions = Versions { version: head.version, parts: head.part_versions(), at: head.at };
    let versions = serde_json::to_value(versions).expect("versions serialise");
    let of = |part| head.part(part).0;
    if let State::User(_) = state {
        let parts = address.aggregate.parts().iter().map(|&part| {
            let value = json(state.part(part).get());
            expected(Bucket::UserState, part, key::user_state(address, part), of(part), value)
        });
        let key = key::versions(address);
        let versions = expected(Bucket::Versions, Part::Auth, key, head.version, versions);
        return parts.chain([versions]).collect();
    }
    let mut all = vec![
        expected(Bucket::Versions, Part::Core, key::versions(address), head.version, versions),
        expected(
            Bucket::Views,
            Part::Core,
            key::view(address, Part::Core),
            of(Part::Core),
            json(core.get()),
        ),
    ];
    if address.aggregate.parts().contains(&Part::Payments) {
        all.push(expected(
            Bucket::Views,
            Part::Payments,
            key::view(address, Part::Payments),
            of(Part::Payments),
            json(payments.get()),
        ));
    }
    if let (true, Some(order)) = (listed, state.order()) {
        all.push(expected(
            Bucket::ActiveOrders,
            Part::Core,
            key::active_order(address, Part::Core),
            of(Part::Core),
            json(order.active_core().get()),
        ));
        if let Ok(part) = serde_json::from_str::<order::Payments>(payments.get()) {
            all.push(expected(
                Bucket::ActiveOrders,
                Part::Payments,
                key::active_order(address, Part::Payments),
                of(Part::Payments),
                json(active_payment(&part).get()),
            ));
        }
    }
    all
}

fn judge(expected: &Expected, found: Option<&Entry>) -> Option<Finding> {
    let Some(found) = found else { return Some(Finding::Missing) };
    if found.version != expected.version {
        let stale = found.version < expected.version;
        return Some(if stale { Finding::Stale } else { Finding::Ahead });
    }
    let value: Value = serde_json::from_slice(&found.value).unwrap_or_default();
    (value != expected.value).then_some(Finding::Different)
}

#[cfg(test)]
mod tests {
    use brigade_contracts::{
        Email, Money, Secret, Timestamp, Token, event, lock, payment::Method, user,
    };
    use brigade_domain::{Head, Lock, User};
    use serde_json::json;

    use super::*;

    #[test]
    fn a_lock_has_one_key_and_no_counter() {
        let at = Timestamp::parse("2026-01-02T03:04:05.678Z").unwrap();
        let address = Address::new("t1", Aggregate::Lock, "ada").unwrap();
        let lock = Lock {
            head: Head { version: 3, ..Head::unborn(address, at) },
            state: lock::State::Held,
            cart_id: Token::new("c1").unwrap(),
            token: 7,
            method: Method::Card,
            acquired_at: at,
            expires_at: at,
            transaction_id: None,
            fingerprint: String::new(),
            amount: Money::ZERO,
            reason: None,
            refusals: 0,
        };
        let all = expected(&State::Lock(lock), false);
        let [expected] = &all[..] else { panic!("{} keys", all.len()) };
        assert_eq!((expected.bucket, expected.key.as_str()), (Bucket::CartLocks, "t1.ada"));
        assert_eq!((expected.version, &expected.value["token"]), (3, &json!(7)));
    }

    #[test]
    fn a_user_has_a_key_for_each_part_which_its_writer_heals() {
        let at = Timestamp::parse("2026-01-02T03:04:05.678Z").unwrap();
        let mut head = Head::unborn(Address::new("t1", Aggregate::User, "ada").unwrap(), at);
        head.touch(&event::USER_REGISTERED, at);
        head.touch(&event::USER_ROLES_CHANGED, at);
        let user = User {
            head,
            email: Email::new("ada@example.org".to_owned()).unwrap(),
            profile_id: Token::new("p1").unwrap(),
            password_hash: Secret::new("$argon2id$of-ada".to_owned()).unwrap(),
            status: user::Status::Active,
            roles: vec![Token::new("staff").unwrap()],
            session: None,
            last_login_at: None,
            subscription: None,
        };
        let all = expected(&State::User(user), false);
        let keys: Vec<_> = all
            .iter()
            .map(|e| (e.bucket, e.key.as_str(), e.version, e.part.is_projected()))
            .collect();
        let state = Bucket::UserState;
        assert_eq!(
            keys,
            [
                (state, "t1.ada.auth", 1, false),
                (state, "t1.ada.subscription", 1, true),
                (state, "t1.ada.roles", 2, true),
                (Bucket::Versions, "t1.user.ada", 2, false),
            ]
        );
        assert!(all.iter().all(|e| !e.value.to_string().contains("argon2id")));
    }

    #[test]
    fn each_finding_is_told_from_version_and_content() {
        let expected = Expected {
            address: Address::new("t1", Aggregate::Cart, "c1").unwrap(),
            bucket: Bucket::Views,
            part: Part::Core,
            key: "t1.cart.c1.core".to_owned(),
            version: 7,
            value: json!({"version": 7, "a": 1}),
        };
        let judged = |version: u64, text: &'static str| {
            let value = text.into();
            judge(&expected, Some(&Entry { revision: 1, version, value, expires: false }))
        };
        assert_eq!(judge(&expected, None), Some(Finding::Missing));
        assert_eq!(judged(7, r#"{"a":1,"version":7}"#), None);
        assert_eq!(judged(7, r#"{"a":2,"version":7}"#), Some(Finding::Different));
        assert_eq!(judged(6, r#"{"a":1,"version":6}"#), Some(Finding::Stale));
        assert_eq!(judged(0, "spoiled"), Some(Finding::Stale));
        assert_eq!(judged(8, r#"{"a":1,"version":8}"#), Some(Finding::Ahead));
    }
}
