//! The KV buckets and their keys.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{Address, Aggregate, Era, Part, PartVersions, Timestamp, Token, WorkerName};

/// The keys of an aggregate that has ended expire after this time.
pub const ENDED_TTL: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// The rows of an order that is not active any more, and released locks, expire after this time.
pub const REMOVED_TTL: Duration = Duration::from_secs(10 * 60);

/// The key in each bucket that cache-verifier writes once and that never changes: whoever purges
/// the bucket takes it away. No other key consists of one token, so it is no tenant's.
pub const CANARY: &str = "canary";

/// A value of the bucket `versions`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Versions {
    /// As it is read; whoever writes leaves it to the bucket.
    #[serde(default, skip_serializing_if = "Era::is_first")]
    pub era: Era,
    pub version: u64,
    pub parts: PartVersions,
    pub at: Timestamp,
}

/// A bucket; its stream is `KV_<bucket>`, its keys are subjects `$KV.<bucket>.<key>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Bucket {
    /// `<tenant>.<aggregate>.<id>`: version and part versions.
    Versions,
    /// `<tenant>.<aggregate>.<id>.<part>`: the part itself.
    Views,
    /// `<tenant>.<order>.core` and `<tenant>.<order>.payment`: rows of the active list.
    ActiveOrders,
    /// `<tenant>.<owner>`: the lock over an owner's carts.
    CartLocks,
    /// `<tenant>.<user>.<part>`: what is known of a user. Not republished.
    UserState,
    /// `<worker>.<stream>.<sequence>`: tries that began alone.
    Attempts,
}

impl Bucket {
    /// The buckets that the topology declares.
    pub const ALL: [Self; 6] = [
        Self::Versions,
        Self::Views,
        Self::ActiveOrders,
        Self::CartLocks,
        Self::UserState,
        Self::Attempts,
    ];

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Versions => "versions",
            Self::Views => "views",
            Self::ActiveOrders => "active_orders",
            Self::CartLocks => "cart_locks",
            Self::UserState => "user_state",
            Self::Attempts => "attempts",
        }
    }

    /// Returns true if the bucket has a [`CANARY`]. What stands in `attempts` expires, and nobody
    /// could bring it back.
    #[must_use]
    pub fn has_canary(self) -> bool {
        self != Self::Attempts
    }

    /// The name of the stream behind the bucket.
    #[must_use]
    pub fn stream(self) -> String {
        format!("KV_{}", self.as_str())
    }

    /// The subject that a key of this bucket is stored under.
    #[must_use]
    pub fn subject(self, key: &str) -> String {
        format!("$KV.{}.{key}", self.as_str())
    }

    /// The subject on which the server republishes a key after it is stored.
    #[must_use]
    pub fn live(self, key: &str) -> String {
        format!("live.{}.{key}", self.as_str())
    }
}

/// All keys of a tenant.
#[must_use]
pub fn all_of(tenant: &Token) -> String {
    format!("{tenant}.>")
}

#[must_use]
pub fn versions(address: &Address) -> String {
    address.to_string()
}

/// The keys of [`versions`] of all aggregates of a kind.
#[must_use]
pub fn versions_of(tenant: &Token, aggregate: Aggregate) -> String {
    format!("{tenant}.{}.*", aggregate.as_str())
}

#[must_use]
pub fn view(address: &Address, part: Part) -> String {
    format!("{address}.{}", part.as_str())
}

/// The row of an order in `active_orders` that holds this part.
#[must_use]
pub fn active_order(order: &Address, part: Part) -> String {
    let row = match part {
        Part::Payments => "payment",
        _ => "core",
    };
    format!("{}.{}.{row}", order.tenant, order.id)
}

/// The order and the part that a subject names under which the bucket `active_orders` stores, or
/// under which it is republished.
#[must_use]
pub fn parse_active_order(subject: &str) -> Option<(Address, Part)> {
    let bucket = subject.strip_prefix("$KV.").or_else(|| subject.strip_prefix("live."))?;
    let mut tokens = bucket.strip_prefix("active_orders.")?.split('.');
    let (tenant, id) = (tokens.next()?, tokens.next()?);
    let part = match (tokens.next()?, tokens.next()) {
        ("core", None) => Part::Core,
        ("payment", None) => Part::Payments,
        _ => return None,
    };
    Some((Address::new(tenant, Aggregate::Order, id).ok()?, part))
}

/// The lock of an owner, by its address.
#[must_use]
pub fn cart_lock(lock: &Address) -> String {
    format!("{}.{}", lock.tenant, lock.id)
}

/// A part of a user.
#[must_use]
pub fn user_state(user: &Address, part: Part) -> String {
    format!("{}.{}.{}", user.tenant, user.id, part.as_str())
}

/// The record of the counted tries of a stored message.
#[must_use]
pub fn attempts(worker: WorkerName, stream: &str, sequence: u64) -> String {
    format!("{worker}.{stream}.{sequence}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_known_by_its_subject() {
        let order = Address::new("t1", Aggregate::Order, "o1").unwrap();
        for part in [Part::Core, Part::Payments] {
            let key = active_order(&order, part);
            for subject in [Bucket::ActiveOrders.subject(&key), Bucket::ActiveOrders.live(&key)] {
                assert_eq!(parse_active_order(&subject), Some((order.clone(), part)));
            }
        }
        for odd in ["t1.o1", "t1.o1.core.x", "t1.o1.payments", "t1..core", "t1.ä.core", ""] {
            assert_eq!(parse_active_order(&Bucket::ActiveOrders.subject(odd)), None, "{odd}");
        }
        for other in ["$KV.views.t1.o1.core", "live.views.t1.o1.core", "active_orders.t1.o1.core"] {
            assert_eq!(parse_active_order(other), None, "{other}");
        }
    }
}
