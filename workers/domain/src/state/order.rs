use brigade_contracts::{
    Address, Currency, Money, Part, Timestamp, Token,
    list::MAX_ROW_CORE_BYTES,
    order::{ActiveCore, ActivePayment, Change, ChangeKind, Core, Item, Payments, Status},
};
use serde_json::value::RawValue;

use super::entry::{self, Entry};
use crate::{head::Head, json::raw};

/// An order as SQL keeps it.
#[derive(Clone, Debug, PartialEq)]
pub struct Order {
    pub head: Head,
    pub status: Status,
    pub currency: Currency,
    pub cart_id: Option<Token>,
    /// The owner of the cart that it was made of, then.
    pub owner: Option<Token>,
    pub table_id: Option<Token>,
    pub turn_id: Option<Token>,
    pub items: Vec<Item>,
    pub total: Money,
    pub paid: Money,
    pub refunded: Money,
    pub paid_at: Option<Timestamp>,
    /// The payments of this order, and of the cart that it was made of.
    pub payments: Vec<Entry>,
    pub created_at: Timestamp,
    /// The reason why it ended, if one was given.
    pub reason: Option<String>,
}

impl Order {
    /// Returns an order that is just placed.
    pub(crate) fn new(
        address: Address,
        currency: Currency,
        items: Vec<Item>,
        total: Money,
        now: Timestamp,
    ) -> Self {
        Self {
            head: Head::unborn(address, now),
            status: Status::Placed,
            currency,
            cart_id: None,
            owner: None,
            table_id: None,
            turn_id: None,
            items,
            total,
            paid: Money::ZERO,
            refunded: Money::ZERO,
            paid_at: None,
            payments: Vec::new(),
            created_at: now,
            reason: None,
        }
    }

    /// Puts it at a table, into a turn.
    pub(crate) fn at(self, seat: Option<(Token, Token)>) -> Self {
        let (table_id, turn_id) = seat.unzip();
        Self { table_id, turn_id, ..self }
    }

    #[must_use]
    pub fn due(&self) -> Money {
        self.total.less(self.paid)
    }

    /// Returns whether it is neither paid nor cancelled.
    #[must_use]
    pub fn is_unpaid(&self) -> bool {
        self.paid_at.is_none() && self.status != Status::Cancelled
    }

    /// Returns whether nobody has accepted it yet, and no money vouches for it.
    #[must_use]
    pub fn is_pending(&self) -> bool {
        let is_unpaid = self.due() > Money::ZERO || self.paid == Money::ZERO;
        self.status == Status::Placed && is_unpaid
    }

    #[must_use]
    pub fn has_open_payment(&self) -> bool {
        entry::open(&self.payments).next().is_some()
    }

    /// Returns a part ([`super::State::part`]).
    pub(crate) fn part(&self, part: Part) -> Box<RawValue> {
        let (version, at) = self.head.part(part);
        match part {
            Part::Core => raw(&Core {
                version,
                at,
                status: self.status,
                currency: self.currency,
                cart_id: self.cart_id.clone(),
                table_id: self.table_id.clone(),
                turn_id: self.turn_id.clone(),
                items: self.items.clone(),
                total: self.total,
                created_at: self.created_at,
            }),
            Part::Payments => raw(&Payments {
                version,
                at,
                currency: self.currency,
                paid: self.paid,
                refunded: self.refunded,
                paid_at: self.paid_at,
                payments: entry::projected(&self.payments),
            }),
            Part::Auth | Part::Subscription | Part::Roles => raw(&()),
        }
    }

    /// Returns its row in the active list, with the newest change of the core. What is projected
    /// again later cannot say more than this: every change of an order's core is one of status. The
    /// last items of a large order are left out, so that no order pushes others off a list.
    #[must_use]
    pub fn active_core(&self) -> Box<RawValue> {
        let mut core = self.listed();
        let whole = raw(&core);
        if whole.get().len() <= MAX_ROW_CORE_BYTES {
            return whole;
        }
        let items = std::mem::take(&mut core.items);
        // With the number of those that are left out, whatever it is.
        core.items_left_out = u16::MAX;
        let mut room = MAX_ROW_CORE_BYTES.saturating_sub(raw(&core).get().len());
        let count = items.len();
        let fits = |item: &Item| {
            let left = room.checked_sub(raw(item).get().len() + 1);
            room = left.unwrap_or(0);
            left.is_some()
        };
        core.items = items.into_iter().take_while(fits).collect();
        core.items_left_out = u16::try_from(count - core.items.len()).unwrap_or(u16::MAX);
        raw(&core)
    }

    /// Returns its payment row in the active list.
    #[must_use]
    pub fn active_payment(&self) -> Box<RawValue> {
        let (version, at) = self.head.part(Part::Payments);
        raw(&ActivePayment { version, at, paid: self.paid, paid_at: self.paid_at })
    }

    fn listed(&self) -> ActiveCore {
        let (version, at) = self.head.part(Part::Core);
        let (kind, fields) = match self.status {
            Status::Placed => (ChangeKind::Added, vec![]),
            Status::Completed | Status::Cancelled => {
                (ChangeKind::Removed, vec!["status".to_owned()])
            }
            _ => (ChangeKind::Updated, vec!["status".to_owned()]),
        };
        let ended = || self.reason.clone().unwrap_or_else(|| self.status.as_str().to_owned());
        let reason = (kind == ChangeKind::Removed).then(ended);
        ActiveCore {
            version,
            at,
            order: self.head.address.id.clone(),
            status: self.status,
            currency: self.currency,
            table_id: self.table_id.clone(),
            turn_id: self.turn_id.clone(),
            items: self.items.clone(),
            items_left_out: 0,
            total: self.total,
            created_at: self.created_at,
            change: Change { kind, fields, reason },
        }
    }
}

/// Returns the payment row of the active list, made of the part `payments` that an event carries.
#[must_use]
pub fn active_payment(payments: &Payments) -> Box<RawValue> {
    let Payments { version, at, paid, paid_at, .. } = *payments;
    raw(&ActivePayment { version, at, paid, paid_at })
}
