//! The active orders of a tenant at a moment, without their rows.

use std::sync::Arc;

use brigade_contracts::{Token, list::MAX_ROWS};

/// An order and the versions of its parts: (order, core, payments).
pub type RowVersions<'a> = (&'a Token, u64, u64);

/// The moment at which a statement read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ListMoment {
    /// The start of Postgres, in microseconds of the Unix time.
    pub start: i64,
    /// The oldest transaction that had not ended; all that was not seen is of this one or later.
    pub xid: i64,
    /// The database's clock, in milliseconds of the Unix time.
    pub at: i64,
}

/// An order of a list, without its row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotOrder {
    pub order: Token,
    /// The version of its core.
    pub core: u64,
    /// The version of its payments.
    pub payments: u64,
    /// The transaction that wrote it last: the lower 32 bits of its number.
    pub xid: i64,
    /// The time of its last change: the database's clock, in milliseconds of the Unix time.
    pub at: i64,
}

impl SnapshotOrder {
    /// Returns the order and the versions of its parts.
    #[must_use]
    pub fn versions(&self) -> RowVersions<'_> {
        (&self.order, self.core, self.payments)
    }
}

#[cfg(test)]
impl SnapshotOrder {
    pub fn of_versions(order: &str, core: u64, payments: u64) -> Self {
        Self { order: Token::new(order).expect("a token"), core, payments, xid: 1, at: 1 }
    }
}

/// The active orders of a tenant at a moment, newest first: at most one more than a list has room
/// for, which tells that there are older ones.
#[derive(Debug)]
pub struct OrderList {
    pub moment: ListMoment,
    orders: Vec<SnapshotOrder>,
}

impl OrderList {
    /// Creates a list of orders, newest first.
    #[must_use]
    pub fn new(moment: ListMoment, orders: Vec<SnapshotOrder>) -> Self {
        Self { moment, orders }
    }

    /// Returns the orders that an answer includes.
    #[must_use]
    pub fn included(&self) -> &[SnapshotOrder] {
        &self.orders[..self.orders.len().min(MAX_ROWS)]
    }

    /// Returns true if there are older orders than those of an answer.
    #[must_use]
    pub fn is_cut(&self) -> bool {
        self.orders.len() > MAX_ROWS
    }

    /// Returns a list, which is not cut, without some of its orders.
    #[must_use]
    pub fn without(list: &Arc<Self>, is_excluded: impl Fn(&SnapshotOrder) -> bool) -> Arc<Self> {
        if !list.orders.iter().any(&is_excluded) {
            return list.clone();
        }
        let orders = list.orders.iter().filter(|order| !is_excluded(order)).cloned().collect();
        Arc::new(Self::new(list.moment, orders))
    }
}
