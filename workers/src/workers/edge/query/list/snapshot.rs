//! The active orders of a tenant at a moment, without their rows.

use std::sync::Arc;

use brigade_contracts::Token;

use super::page::ListPlace;

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
    /// The time at which it was created, likewise.
    pub created_at: i64,
}

impl SnapshotOrder {
    /// Returns the order and the versions of its parts.
    #[must_use]
    pub fn versions(&self) -> RowVersions<'_> {
        (&self.order, self.core, self.payments)
    }

    /// Returns its place in the list.
    #[must_use]
    pub fn place(&self) -> ListPlace {
        ListPlace { created_at: self.created_at, order: self.order.clone() }
    }
}

#[cfg(test)]
impl SnapshotOrder {
    pub fn of_versions(order: &str, core: u64, payments: u64) -> Self {
        let order = Token::new(order).expect("a token");
        Self { order, core, payments, xid: 1, at: 1, created_at: 1 }
    }
}

/// Active orders of a tenant at a moment, newest first.
#[derive(Debug)]
pub struct OrderList {
    pub moment: ListMoment,
    orders: Vec<SnapshotOrder>,
    /// There are older ones.
    is_cut: bool,
}

/// Some of the orders of a list, in a row.
#[derive(Clone, Copy, Debug)]
pub struct OrderSlice<'a> {
    pub orders: &'a [SnapshotOrder],
    /// There are older ones.
    pub is_cut: bool,
}

impl OrderList {
    /// Creates a list of orders, newest first. What is beyond `limit` is not in it, and tells that
    /// there are older ones.
    #[must_use]
    pub fn new(moment: ListMoment, mut orders: Vec<SnapshotOrder>, limit: u16) -> Self {
        let is_cut = orders.len() > usize::from(limit);
        orders.truncate(limit.into());
        Self { moment, orders, is_cut }
    }

    /// Returns all orders that were read.
    #[must_use]
    pub fn included(&self) -> &[SnapshotOrder] {
        &self.orders
    }

    /// Returns true if there are older orders than those that were read.
    #[must_use]
    pub fn is_cut(&self) -> bool {
        self.is_cut
    }

    /// Returns the newest orders, at most so many.
    #[must_use]
    pub fn newest(&self, limit: usize) -> OrderSlice<'_> {
        let orders = &self.orders[..self.orders.len().min(limit)];
        OrderSlice { orders, is_cut: self.is_cut || orders.len() < self.orders.len() }
    }

    /// Returns a list, which is not cut, without some of its orders.
    #[must_use]
    pub fn without(list: &Arc<Self>, is_excluded: impl Fn(&SnapshotOrder) -> bool) -> Arc<Self> {
        if !list.orders.iter().any(&is_excluded) {
            return list.clone();
        }
        let orders = list.orders.iter().filter(|order| !is_excluded(order)).cloned().collect();
        Arc::new(Self { moment: list.moment, orders, is_cut: list.is_cut })
    }
}
