//! The list of active orders, folded from answers and pushes. No I/O.
//!
//! **Version wins.** A part of a row only gives way to a higher version of itself, whoever brings
//! it, so neither a late push nor a late answer takes back what was shown. A push is one part of a
//! row; an answer has both.
//!
//! **An order that an answer does not list** has ended, or was not there yet when the answer was
//! made. Queries are answered with nothing older than what was pushed before they were sent, so it
//! has ended if its last push came before that, and no later push of an earlier version brings it
//! back. Else it stays, and the next answer tells.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
};

use serde::{Deserialize, Serialize};

use crate::{
    Era, Money, Timestamp, Token,
    list::ActiveRow,
    order::{ActiveCore, ActivePayment, ChangeKind},
};

/// Orders that are remembered though they are not shown, for pushes of them that come late.
const MAX_UNSHOWN: usize = 1000;

/// A row as it is shown.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ListedOrder {
    pub core: ActiveCore,
    /// `None`: a new order was pushed, and this part of it not yet.
    pub payment: Option<ActivePayment>,
}

impl ListedOrder {
    /// Returns what is left of the total after what is paid, as far as that is known.
    #[must_use]
    pub fn due(&self) -> Option<Money> {
        self.payment.as_ref().map(|payment| self.core.total.less(payment.paid))
    }

    /// The row as a query answers it, once both parts are known.
    #[must_use]
    pub fn whole(&self) -> Option<ActiveRow> {
        let (payment, due) = (self.payment.clone()?, self.due()?);
        Some(ActiveRow { core: self.core.clone(), payment, due })
    }

    fn versions(&self) -> (u64, Option<u64>) {
        (self.core.version, self.payment.as_ref().map(|payment| payment.version))
    }
}

/// A change of the list.
#[derive(Clone, Debug, PartialEq)]
pub enum OrderListChange {
    Added(ListedOrder),
    /// The new row. What changed in its core last stands in its `change`.
    Updated(ListedOrder),
    /// `reason`: why it ended; `None` where nobody told, as of one that ended while no push came
    /// and no position was of use.
    Removed {
        order: Token,
        reason: Option<String>,
    },
}

/// The response to a query of the list.
#[derive(Clone, Debug, PartialEq)]
pub enum ListResponse {
    /// 304: what the last answer said is what there is.
    Same,
    /// Everything; `more`: there are older ones besides.
    Rows { rows: Vec<ActiveRow>, more: bool, at: ListPosition },
    /// The rows that changed since the position of the query.
    Changes { changes: Vec<ActiveRow>, at: ListPosition },
}

/// Names an answer, for the next query.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListPosition {
    pub resume: String,
    pub etag: Option<String>,
}

/// The list of a tenant. It can be kept and read again, so that a program that restarts has its
/// last list at once and goes on from its position.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ActiveOrders {
    orders: BTreeMap<Token, KnownOrder>,
    /// The orders in the last response, and its position.
    listed: BTreeSet<Token>,
    at: Option<ListPosition>,
    /// The place of the last row of a list that was cut.
    #[serde(default)]
    oldest: Option<(Timestamp, Token)>,
    /// Queries that were begun.
    asked: u64,
}

/// The known parts of an order.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct KnownOrder {
    core: Option<ActiveCore>,
    payment: Option<ActivePayment>,
    /// The number of queries that had been begun when it was pushed last.
    pushed: u64,
    gone: Option<Gone>,
}

/// The reason why an order is not listed, besides what its core says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Gone {
    /// An answer did not list it any more: for good.
    Ended,
    /// It is older than what a cut list shows, until it is listed or changes.
    OutOfView,
}

impl ListPosition {
    /// Returns the era of the database that the list is of.
    #[must_use]
    pub fn era(&self) -> Era {
        let suffix = self.etag.as_deref().and_then(|etag| etag.trim_matches('"').split_once('-'));
        suffix.and_then(|(_, era)| era.parse().ok()).map_or(Era::FIRST, Era::new)
    }
}

impl KnownOrder {
    fn take_core(&mut self, core: ActiveCore) {
        if self.core.as_ref().is_none_or(|known| known.version < core.version) {
            self.core = Some(core);
        }
    }

    fn take_payment(&mut self, payment: ActivePayment) {
        if self.payment.as_ref().is_none_or(|known| known.version < payment.version) {
            self.payment = Some(payment);
        }
    }

    fn versions(&self) -> (Option<u64>, Option<u64>) {
        let core = self.core.as_ref().map(|core| core.version);
        (core, self.payment.as_ref().map(|payment| payment.version))
    }

    fn row(&self) -> Option<ListedOrder> {
        let core = self.core.clone().filter(|core| is_active(core) && self.gone.is_none())?;
        Some(ListedOrder { core, payment: self.payment.clone() })
    }
}

/// Returns the place of an order in the list, oldest first.
fn place(core: &ActiveCore) -> (Timestamp, Token) {
    (core.created_at, core.order.clone())
}

fn is_active(core: &ActiveCore) -> bool {
    core.change.kind != ChangeKind::Removed && core.status.is_active()
}

impl ActiveOrders {
    /// The rows, newest first by (`created_at`, `order`), as a query lists them.
    #[must_use]
    pub fn rows(&self) -> Vec<ListedOrder> {
        let mut rows: Vec<ListedOrder> = self.orders.values().filter_map(KnownOrder::row).collect();
        rows.sort_by_key(|row| Reverse(place(&row.core)));
        rows
    }

    /// Notes that a query is sent. Its number goes with its answer; of several only the answer to
    /// the newest counts.
    pub fn ask(&mut self) -> u64 {
        self.forget_unshown();
        self.asked += 1;
        self.asked
    }

    /// Returns the position from which the next query goes on.
    #[must_use]
    pub fn at(&self) -> Option<&ListPosition> {
        self.at.as_ref()
    }

    /// Takes a push of the core row.
    pub fn push_core(&mut self, core: ActiveCore) -> Option<OrderListChange> {
        self.push(&core.order.clone(), |known| known.take_core(core))
    }

    /// Takes a push of the payment row, whose order its key names.
    pub fn push_payment(
        &mut self,
        order: &Token,
        payment: ActivePayment,
    ) -> Option<OrderListChange> {
        self.push(order, |known| known.take_payment(payment))
    }

    fn push(
        &mut self,
        order: &Token,
        take: impl FnOnce(&mut KnownOrder),
    ) -> Option<OrderListChange> {
        let asked = self.asked;
        let known = self.orders.entry(order.clone()).or_default();
        let (before, versions) = (known.row(), known.versions());
        take(known);
        known.pushed = asked;
        if known.gone == Some(Gone::OutOfView) && known.versions() != versions {
            known.gone = None;
        }
        self.tell(order, before.as_ref())
    }

    /// Takes the answer to the query of this number. The news are sorted by order.
    pub fn answer(&mut self, asked: u64, answer: ListResponse) -> Vec<OrderListChange> {
        if asked != self.asked {
            return Vec::new();
        }
        let shown = |(order, known): (&Token, &KnownOrder)| Some((order.clone(), known.row()?));
        let before: BTreeMap<Token, ListedOrder> = self.orders.iter().filter_map(shown).collect();
        match answer {
            ListResponse::Same => {}
            ListResponse::Rows { rows, more, at } => {
                self.oldest = rows.last().filter(|_| more).map(|row| place(&row.core));
                self.listed = rows.iter().map(|row| row.core.order.clone()).collect();
                if self.at.as_ref().is_some_and(|before| before.era() != at.era()) {
                    // Versions count anew.
                    self.orders.clear();
                }
                rows.into_iter().for_each(|row| self.take(row));
                self.at = Some(at);
            }
            ListResponse::Changes { changes, at } => {
                for row in changes {
                    let order = row.core.order.clone();
                    if is_active(&row.core) {
                        self.listed.insert(order);
                    } else {
                        self.listed.remove(&order);
                    }
                    self.take(row);
                }
                self.at = Some(at);
            }
        }
        self.drop_unlisted(asked);
        let orders: BTreeSet<Token> = self.orders.keys().chain(before.keys()).cloned().collect();
        orders.iter().filter_map(|order| self.tell(order, before.get(order))).collect()
    }

    fn take(&mut self, row: ActiveRow) {
        let known = self.orders.entry(row.core.order.clone()).or_default();
        known.gone = None;
        known.take_core(row.core);
        known.take_payment(row.payment);
    }

    /// Removes the orders that the last response does not list although they existed when the query
    /// began. In a list that was cut, those below its end are only out of view.
    fn drop_unlisted(&mut self, asked: u64) {
        for (order, known) in &mut self.orders {
            if known.pushed >= asked || self.listed.contains(order) {
                continue;
            }
            let below =
                |core: &ActiveCore| self.oldest.as_ref().is_some_and(|last| place(core) < *last);
            let below = known.core.as_ref().is_none_or(below);
            known.gone = Some(if below { Gone::OutOfView } else { Gone::Ended });
        }
    }

    /// Returns the change of an order that was listed like this before.
    fn tell(&self, order: &Token, before: Option<&ListedOrder>) -> Option<OrderListChange> {
        let Some(known) = self.orders.get(order) else {
            let removed = OrderListChange::Removed { order: order.clone(), reason: None };
            return before.map(|_| removed);
        };
        match (before, known.row()) {
            (None, Some(row)) => Some(OrderListChange::Added(row)),
            (Some(before), Some(row)) if before.versions() != row.versions() => {
                Some(OrderListChange::Updated(row))
            }
            (Some(_), None) => {
                let removed = known.core.as_ref().filter(|core| !is_active(core));
                let reason = removed.and_then(|core| core.change.reason.clone());
                Some(OrderListChange::Removed { order: order.clone(), reason })
            }
            _ => None,
        }
    }

    /// Keeps those that were pushed last.
    fn forget_unshown(&mut self) {
        let unshown = self.orders.iter().filter(|(_, known)| known.row().is_none());
        let mut unshown: Vec<_> =
            unshown.map(|(order, known)| (known.pushed, order.clone())).collect();
        unshown.sort();
        let too_many = unshown.len().saturating_sub(MAX_UNSHOWN);
        for (_, order) in &unshown[..too_many] {
            self.orders.remove(order);
        }
    }
}

#[cfg(test)]
mod tests;
