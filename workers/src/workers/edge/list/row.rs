//! What is known of an order's row: its parts, each the newest that was seen, and the row that
//! they make.
//!
//! Parts come from SQL, both at once, and from the watch, one at a time. Either way a row is made
//! of the bytes that stand in KV, or would, so the same versions are the same bytes. Of each part
//! the higher version stays, so it does not matter in which order they come.

use std::sync::Arc;

use brigade_contracts::{
    Address, Money, Part, Timestamp, Token,
    order::{ActiveCore, ActivePayment},
};
use brigade_domain::Order;
use serde_json::value::RawValue;

use super::Versions;
use crate::workers::edge::content::as_written;

/// A row as it is answered.
#[derive(Debug)]
pub struct Row {
    pub order: Token,
    /// Versions of its parts.
    core: u64,
    payments: u64,
    pub active: bool,
    pub text: Box<RawValue>,
}

/// A part of a row, as it stands in KV.
#[derive(Debug)]
struct Piece {
    version: u64,
    /// The total, or what is paid.
    amount: Money,
    active: bool,
    raw: Box<RawValue>,
}

/// What is known of a row.
#[derive(Clone, Debug, Default)]
pub struct Known {
    core: Option<Arc<Piece>>,
    payment: Option<Arc<Piece>>,
    /// Where both parts are known.
    pub row: Option<Arc<Row>>,
}

impl Known {
    #[must_use]
    pub fn of(order: &Order) -> Self {
        let piece = |part, amount, raw| {
            let version = order.head.part(part).0;
            Some(Arc::new(Piece { version, amount, active: order.status.is_active(), raw }))
        };
        let core = piece(Part::Core, order.total, order.active_core());
        let payment = piece(Part::Payments, order.paid, order.active_payment());
        Self::made(&order.head.address.id, core, payment)
    }

    /// A part as it stands in KV and when it was changed; `None` of what this build would not
    /// write there: it may lack a field or order them otherwise.
    #[must_use]
    pub fn read(order: &Address, part: Part, value: &[u8]) -> Option<(Self, Timestamp)> {
        let known = Self::default();
        if part == Part::Core {
            let (core, raw) = as_written::<ActiveCore>(value)?;
            let ActiveCore { version, total: amount, at, .. } = core;
            let piece = Piece { version, amount, active: core.status.is_active(), raw };
            (core.order == order.id).then(|| (Self { core: Some(piece.into()), ..known }, at))
        } else {
            let (payment, raw) = as_written::<ActivePayment>(value)?;
            let ActivePayment { version, paid: amount, at, .. } = payment;
            let piece = Piece { version, amount, active: true, raw };
            Some((Self { payment: Some(piece.into()), ..known }, at))
        }
    }

    /// The newest of each part of both; `None`: `other` tells nothing new.
    #[must_use]
    pub fn with(&self, order: &Token, other: &Self) -> Option<Self> {
        let is_new = |known: &Option<Arc<Piece>>, other: &Option<Arc<Piece>>| {
            let version = |piece: &Option<Arc<Piece>>| piece.as_ref().map(|piece| piece.version);
            version(other) > version(known)
        };
        let (core, payment) =
            (is_new(&self.core, &other.core), is_new(&self.payment, &other.payment));
        let newest = |is_new, known: &Option<_>, other: &Option<_>| {
            if is_new { other.clone() } else { known.clone() }
        };
        (core || payment).then(|| {
            let core = newest(core, &self.core, &other.core);
            Self::made(order, core, newest(payment, &self.payment, &other.payment))
        })
    }

    fn made(order: &Token, core: Option<Arc<Piece>>, payment: Option<Arc<Piece>>) -> Self {
        let row = match (&core, &payment) {
            (Some(core), Some(payment)) => Row::of(order, core, payment).map(Arc::new),
            _ => None,
        };
        Self { core, payment, row }
    }

    /// Bytes that it holds.
    #[must_use]
    pub fn size(&self) -> usize {
        let pieces = [&self.core, &self.payment].into_iter().flatten();
        let row = self.row.as_ref().map_or(0, |row| row.text.get().len());
        row + pieces.map(|piece| piece.raw.get().len()).sum::<usize>()
    }
}

impl Row {
    /// The core's object, and in it what the other part tells, and what is computed: the shape of
    /// [`brigade_contracts::list::ActiveRow`].
    fn of(order: &Token, core: &Piece, payment: &Piece) -> Option<Self> {
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

    #[must_use]
    pub fn versions(&self) -> Versions<'_> {
        (&self.order, self.core, self.payments)
    }

    #[cfg(test)]
    pub fn of_text(text: Box<RawValue>) -> Self {
        let order = Token::new("o1").expect("a token");
        Self { order, core: 1, payments: 1, active: true, text }
    }
}
