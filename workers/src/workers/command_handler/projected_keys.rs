//! The values that a state has in KV, each under its key and version.

use async_nats::HeaderMap;
use brigade_contracts::{
    Era, Part, header,
    key::{self, ENDED_TTL, REMOVED_TTL, Versions},
    lock::Due,
    subject,
};
use brigade_domain::{Lock, Order, State};
use bytes::Bytes;
use serde_json::value::RawValue;

use crate::infra::Put;

/// Returns the version counters of an aggregate. Locks have none: nobody waits for their versions.
pub fn versions(state: &State) -> Option<Put> {
    if state.lock().is_some() {
        return None;
    }
    let head = state.head();
    let (version, parts) = (head.version, head.part_versions());
    let value = Versions { era: Era::FIRST, version, parts, at: head.at };
    Some(Put {
        key: key::versions(&head.address),
        version: head.version,
        value: serde_json::to_vec(&value).expect("versions serialise").into(),
        ttl: state.has_ended().then_some(ENDED_TTL),
    })
}

/// Returns the part `core` in the bucket of views. Locks and users have none there.
pub fn core(state: &State) -> Option<Put> {
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

/// Returns the part `auth` of a user.
pub fn auth(user: &State) -> Put {
    let head = user.head();
    Put {
        key: key::user_state(&head.address, Part::Auth),
        version: head.part(Part::Auth).0,
        value: bytes(user.part(Part::Auth)),
        ttl: None,
    }
}

/// Returns the lock of an owner.
pub fn cart_lock(lock: &Lock) -> Put {
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

/// Returns subject, headers and payload of the message that wakes cart-lock-expiry at the lock's
/// deadline, or at once if that has passed. Published again it is the same timer.
pub fn timer(lock: &Lock) -> (String, HeaderMap, Bytes) {
    let cart = lock.cart();
    let mut headers = HeaderMap::new();
    headers.insert(header::SCHEDULE, format!("@at {}", lock.expires_at));
    headers.insert(header::SCHEDULE_TARGET, subject::lock_due(&cart, lock.token));
    let due = Due { owner: lock.head.address.id.clone() };
    let payload = serde_json::to_vec(&due).expect("a Token serialises");
    (subject::lock_timer(&cart, lock.token), headers, payload.into())
}

/// Returns the row of an order in the list of active orders.
pub fn active_order(order: &Order) -> Put {
    Put {
        key: key::active_order(&order.head.address, Part::Core),
        version: order.head.part(Part::Core).0,
        value: bytes(order.active_core()),
        ttl: (!order.status.is_active()).then_some(REMOVED_TTL),
    }
}
