//! The keys that SQL demands of KV, and how a cached entry differs from them. Pure.

use brigade_contracts::{
    Address, Era, Part,
    key::{self, Bucket, Versions},
};
use brigade_domain::{Order, State};
use serde_json::Value;

use crate::{infra::KvEntry, workers::cache_verifier::discrepancy::KeyDiscrepancy};

/// The fields of the part `auth` that are hashes.
const TOKEN_HASHES: [&str; 2] = ["access_hash", "refresh_hash"];

/// A key, and its content according to SQL.
pub struct ExpectedKey {
    pub address: Address,
    pub bucket: Bucket,
    /// Its writer heals the key.
    pub part: Part,
    pub key: String,
    pub version: u64,
    pub value: Value,
}

impl ExpectedKey {
    fn of_part(state: &State, bucket: Bucket, key: String, part: Part) -> Self {
        let head = state.head();
        let (address, version) = (head.address.clone(), head.part(part).0);
        let value = without_hashes(json(state.part(part).get()));
        Self { address, bucket, part, key, version, value }
    }

    /// Returns the key in `versions`, which the writer of this part writes.
    fn of_versions(state: &State, part: Part) -> Self {
        let head = state.head();
        let (version, parts) = (head.version, head.part_versions());
        let versions = Versions { era: Era::FIRST, version, parts, at: head.at };
        Self {
            address: head.address.clone(),
            bucket: Bucket::Versions,
            part,
            key: key::versions(&head.address),
            version: head.version,
            value: serde_json::to_value(versions).expect("versions serialise"),
        }
    }

    /// Compares the key with what is cached.
    pub fn compare(&self, cached: Option<&KvEntry>) -> Option<KeyDiscrepancy> {
        let Some(cached) = cached else { return Some(KeyDiscrepancy::Missing) };
        if cached.version < self.version {
            return Some(KeyDiscrepancy::Stale);
        }
        if cached.version > self.version {
            return Some(KeyDiscrepancy::Ahead);
        }
        let value = without_hashes(serde_json::from_slice(&cached.value).unwrap_or_default());
        (value != self.value).then_some(KeyDiscrepancy::Different)
    }
}

/// Returns the keys of an aggregate, those of the active list only if an order is `listed`.
pub fn expected_keys(state: &State, listed: bool) -> Vec<ExpectedKey> {
    let address = &state.head().address;
    let parts = address.aggregate.parts().iter();
    match state {
        State::Cart(_) | State::Payment(_) | State::Table(_) | State::Product(_) => {
            view_keys(state)
        }
        State::Order(order) => {
            let mut keys = view_keys(state);
            if listed {
                keys.extend(active_order_keys(order));
            }
            keys
        }
        State::User(_) => parts
            .map(|&part| {
                let key = key::user_state(address, part);
                ExpectedKey::of_part(state, Bucket::UserState, key, part)
            })
            .chain([ExpectedKey::of_versions(state, Part::Auth)])
            .collect(),
        State::Lock(lock) => vec![ExpectedKey {
            version: lock.head.version,
            ..ExpectedKey::of_part(state, Bucket::CartLocks, key::cart_lock(address), Part::Core)
        }],
    }
}

fn view_keys(state: &State) -> Vec<ExpectedKey> {
    let address = &state.head().address;
    let view = |&part| ExpectedKey::of_part(state, Bucket::Views, key::view(address, part), part);
    let views = address.aggregate.parts().iter().map(view);
    [ExpectedKey::of_versions(state, Part::Core)].into_iter().chain(views).collect()
}

fn active_order_keys(order: &Order) -> [ExpectedKey; 2] {
    let rows = [(Part::Core, order.active_core()), (Part::Payments, order.active_payment())];
    rows.map(|(part, row)| ExpectedKey {
        address: order.head.address.clone(),
        bucket: Bucket::ActiveOrders,
        part,
        key: key::active_order(&order.head.address, part),
        version: order.head.part(part).0,
        value: json(row.get()),
    })
}

/// This worker may not read the hashes of tokens in SQL. They change only with the version and the
/// times beside them, which it compares.
fn without_hashes(mut value: Value) -> Value {
    if let Some(fields) = value.as_object_mut() {
        fields.retain(|field, _| !TOKEN_HASHES.contains(&field.as_str()));
    }
    value
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).expect("a part is JSON")
}

#[cfg(test)]
mod tests {
    use brigade_contracts::{
        Aggregate, Email, Money, Secret, Timestamp, Token, event, lock, payment::Method, user,
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
            state: lock::LockState::Held,
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
        let all = expected_keys(&State::Lock(lock), false);
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
            sessions: Vec::new(),
            known_sources: Vec::new(),
            reset: None,
            last_login_at: None,
            subscription: None,
        };
        let all = expected_keys(&State::User(user), false);
        let keys: Vec<_> = all
            .iter()
            .map(|e| (e.bucket, e.key.as_str(), e.version, e.part.is_written_by_projector()))
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
    fn each_discrepancy_follows_from_version_and_content() {
        let expected = ExpectedKey {
            address: Address::new("t1", Aggregate::Cart, "c1").unwrap(),
            bucket: Bucket::Views,
            part: Part::Core,
            key: "t1.cart.c1.core".to_owned(),
            version: 7,
            value: json!({"version": 7, "a": 1}),
        };
        let compared = |version: u64, text: &'static str| {
            let value = text.into();
            expected.compare(Some(&KvEntry {
                revision: 1,
                era: Era::FIRST,
                version,
                value,
                expires: false,
            }))
        };
        assert_eq!(expected.compare(None), Some(KeyDiscrepancy::Missing));
        assert_eq!(compared(7, r#"{"a":1,"version":7}"#), None);
        assert_eq!(compared(7, r#"{"a":1,"version":7,"access_hash":"0f"}"#), None);
        assert_eq!(compared(7, r#"{"a":2,"version":7}"#), Some(KeyDiscrepancy::Different));
        assert_eq!(compared(6, r#"{"a":1,"version":6}"#), Some(KeyDiscrepancy::Stale));
        assert_eq!(compared(0, "spoiled"), Some(KeyDiscrepancy::Stale));
        assert_eq!(compared(8, r#"{"a":1,"version":8}"#), Some(KeyDiscrepancy::Ahead));
    }
}
