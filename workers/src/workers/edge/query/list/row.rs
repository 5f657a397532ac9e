//! The row of an order in a list, and the parts that it is made of, each the newest that was seen.
//!
//! Parts come from SQL, both at once, and from the watch, one at a time. Either way a row is made
//! of the bytes that stand in KV, or would, so the same versions are the same bytes. Of each part
//! the higher version stays, so it does not matter in which order they come.

use std::sync::Arc;

use brigade_contracts::{
    Address, Money, Part, Timestamp, Token,
    list::MAX_ROW_CORE_BYTES,
    order::{ActiveCore, ActivePayment},
};
use brigade_domain::Order;
use serde_json::value::RawValue;

use super::snapshot::RowVersions;
use crate::workers::edge::query::content::decode_canonical;

/// A row as it is answered.
#[derive(Debug)]
pub struct ListRow {
    pub order: Token,
    /// The version of its core.
    core: u64,
    /// The version of its payments.
    payments: u64,
    /// The order is neither completed nor cancelled.
    pub active: bool,
    /// The row as JSON.
    pub text: Box<RawValue>,
}

/// A part of a row, as it stands in KV.
#[derive(Debug)]
struct RowPart {
    version: u64,
    /// The total of a core, or the amount paid.
    amount: Money,
    active: bool,
    raw: Box<RawValue>,
}

/// The parts of a row that are known, and the row itself.
#[derive(Clone, Debug, Default)]
pub struct RowParts {
    core: Option<Arc<RowPart>>,
    payment: Option<Arc<RowPart>>,
    /// Present if both parts are.
    pub row: Option<Arc<ListRow>>,
}

impl RowParts {
    /// Returns both parts of an order.
    #[must_use]
    pub fn from_order(order: &Order) -> Self {
        let part = |part, amount, raw| {
            let version = order.head.part(part).0;
            Some(Arc::new(RowPart { version, amount, active: order.status.is_active(), raw }))
        };
        let core = part(Part::Core, order.total, order.active_core());
        let payment = part(Part::Payments, order.paid, order.active_payment());
        Self::assemble(&order.head.address.id, core, payment)
    }

    /// Reads a part as it stands in KV, and the time of its change; `None` if this build would not
    /// write these bytes: the part may lack a field or order them otherwise.
    #[must_use]
    pub fn read_part(order: &Address, part: Part, value: &[u8]) -> Option<(Self, Timestamp)> {
        let known = Self::default();
        if part == Part::Core {
            let (core, raw) = decode_canonical::<ActiveCore>(value)?;
            // An older build left no items out, however large the order.
            if raw.get().len() > MAX_ROW_CORE_BYTES {
                return None;
            }
            let ActiveCore { version, total: amount, at, .. } = core;
            let part = RowPart { version, amount, active: core.status.is_active(), raw };
            (core.order == order.id).then(|| (Self { core: Some(part.into()), ..known }, at))
        } else {
            let (payment, raw) = decode_canonical::<ActivePayment>(value)?;
            let ActivePayment { version, paid: amount, at, .. } = payment;
            let part = RowPart { version, amount, active: true, raw };
            Some((Self { payment: Some(part.into()), ..known }, at))
        }
    }

    /// Returns the newest of each part of both; `None` if `other` has no newer one.
    #[must_use]
    pub fn merged_with(&self, order: &Token, other: &Self) -> Option<Self> {
        let is_new = |known: &Option<Arc<RowPart>>, other: &Option<Arc<RowPart>>| {
            let version = |part: &Option<Arc<RowPart>>| part.as_ref().map(|part| part.version);
            version(other) > version(known)
        };
        let (core, payment) =
            (is_new(&self.core, &other.core), is_new(&self.payment, &other.payment));
        let newest = |is_new, known: &Option<_>, other: &Option<_>| {
            if is_new { other.clone() } else { known.clone() }
        };
        (core || payment).then(|| {
            let core = newest(core, &self.core, &other.core);
            Self::assemble(order, core, newest(payment, &self.payment, &other.payment))
        })
    }

    fn assemble(order: &Token, core: Option<Arc<RowPart>>, payment: Option<Arc<RowPart>>) -> Self {
        let row = match (&core, &payment) {
            (Some(core), Some(payment)) => ListRow::join(order, core, payment).map(Arc::new),
            _ => None,
        };
        Self { core, payment, row }
    }

    /// Returns the number of bytes that it holds.
    #[must_use]
    pub fn size(&self) -> usize {
        let parts = [&self.core, &self.payment].into_iter().flatten();
        let row = self.row.as_ref().map_or(0, |row| row.text.get().len());
        row + parts.map(|part| part.raw.get().len()).sum::<usize>()
    }
}

impl ListRow {
    /// Writes a row: the object of the core, and in it the other part and the amount due, as
    /// [`brigade_contracts::list::ActiveRow`] has them.
    fn join(order: &Token, core: &RowPart, payment: &RowPart) -> Option<Self> {
        let open = core.raw.get().strip_suffix('}')?;
        let due = core.amount.less(payment.amount).minor_units();
        let text = format!(r#"{open},"payment":{},"due":{due}}}"#, payment.raw);
        Some(Self {
            order: order.clone(),
            core: core.version,
            payments: payment.version,
            active: core.active,
            text: RawValue::from_string(text).ok()?,
        })
    }

    /// Returns the order and the versions of its parts.
    #[must_use]
    pub fn versions(&self) -> RowVersions<'_> {
        (&self.order, self.core, self.payments)
    }

    #[cfg(test)]
    pub fn from_text(text: Box<RawValue>) -> Self {
        let order = Token::new("o1").expect("a token");
        Self { order, core: 1, payments: 1, active: true, text }
    }
}
