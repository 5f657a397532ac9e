use brigade_contracts::{
    Currency, Money, Part, Refusal, Timestamp, Token,
    cart::{Core, Item, Kind, MemberPayment, Payments, Share, Status},
};
use serde::Serialize;
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use super::entry::{self, Entry};
use crate::{head::Head, json::raw};

/// A cart as SQL keeps it.
#[derive(Clone, Debug, PartialEq)]
pub struct Cart {
    pub head: Head,
    pub kind: Kind,
    pub owner: Token,
    pub session: Option<Token>,
    pub status: Status,
    pub currency: Currency,
    /// In order of joining.
    pub members: Vec<MemberPayment>,
    pub items: Vec<Item>,
    /// The sum of what its payments had applied to it; it stays after the check-out.
    pub paid: Money,
    pub refunded: Money,
    pub payments: Vec<Entry>,
    pub order_id: Option<Token>,
    /// The deadline of the lock that this cart holds for its owner.
    pub locked_until: Option<Timestamp>,
    /// The number of refusals while no lock was live; counting one changes no version.
    pub refusals: u32,
    /// The hash of the secret by which customers join it, of a team cart.
    pub secret_hash: Option<String>,
}

impl Cart {
    #[must_use]
    pub fn is_member(&self, user: &Token) -> bool {
        self.members.iter().any(|member| member.user == *user)
    }

    /// Returns whether the cart is a user's. A session is none, even where a user has its name.
    pub(crate) fn is_owned_by(&self, user: &Token) -> bool {
        self.owner == *user && self.session.as_ref() != Some(user)
    }

    /// Returns whether it is a user's, or he is a member of it.
    pub(crate) fn is_participant(&self, user: &Token) -> bool {
        self.is_owned_by(user) || (self.owner != *user && self.is_member(user))
    }

    /// Returns whether money may still come in, under the lock of this token or under any.
    #[must_use]
    pub fn has_open_payment(&self, token: Option<i64>) -> bool {
        entry::open(&self.payments).any(|entry| token.is_none() || entry.token == token)
    }

    #[must_use]
    pub fn due(&self) -> Money {
        self.total().unwrap_or_default().less(self.paid)
    }

    /// Returns a part ([`super::State::part`]).
    pub(crate) fn part(&self, part: Part) -> Box<RawValue> {
        let (version, at) = self.head.part(part);
        match part {
            Part::Core => raw(&Core {
                version,
                at,
                kind: self.kind,
                owner: self.owner.clone(),
                session: self.session.clone(),
                status: self.status,
                currency: self.currency,
                members: self.shares(),
                items: self.items.clone(),
                // Commands refuse an item that would overflow the sum.
                total: self.total().unwrap_or_default(),
                locked_until: self.locked_until,
                order_id: self.order_id.clone(),
            }),
            Part::Payments => raw(&Payments {
                version,
                at,
                currency: self.currency,
                paid: self.paid,
                refunded: self.refunded,
                members: self.members.clone(),
                payments: entry::projected(&self.payments),
            }),
            Part::Auth | Part::Subscription | Part::Roles => raw(&()),
        }
    }

    /// Returns the sum of all items.
    ///
    /// # Errors
    /// `422 amount_overflow`.
    pub fn total(&self) -> Result<Money, Refusal> {
        self.items
            .iter()
            .try_fold(Money::ZERO, |sum, item| sum.plus(item.unit_price.times(item.quantity)?))
    }

    /// Returns the lower-case hex SHA-256 over the canonical JSON of the contents that are paid
    /// for: sorted keys, no spaces, items sorted by id.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        // In this order the fields are sorted.
        #[derive(Serialize)]
        struct Contents<'a> {
            currency: Currency,
            items: Vec<Line<'a>>,
        }
        #[derive(Serialize)]
        struct Line<'a> {
            item_id: &'a Token,
            quantity: u16,
            sku: &'a str,
            unit_price: Money,
        }
        fn line(item: &Item) -> Line<'_> {
            Line {
                item_id: &item.item_id,
                quantity: item.quantity.get(),
                sku: item.sku.as_str(),
                unit_price: item.unit_price,
            }
        }
        let mut items: Vec<_> = self.items.iter().map(line).collect();
        items.sort_by_key(|line| line.item_id);
        let contents = raw(&Contents { currency: self.currency, items });
        hex::encode(Sha256::digest(contents.get()))
    }

    /// Returns what each member owes: its own items, and an equal part of the items without a user
    /// by largest remainder. All remainders of an equal split are alike, so the first to join carry
    /// one unit more. The shares sum to the total.
    pub(crate) fn shares(&self) -> Vec<Share> {
        let sum_of = |user: Option<&Token>| {
            let items = self.items.iter().filter(|item| item.user.as_ref() == user);
            items
                .map(|item| item.unit_price.minor_units() * i64::from(item.quantity.get()))
                .sum::<i64>()
        };
        let (count, common) = (self.members.len(), sum_of(None));
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        let share = |(at, member): (i64, &MemberPayment)| {
            let extra = i64::from(at < common % count);
            let share = sum_of(Some(&member.user)) + common / count + extra;
            Share { user: member.user.clone(), share: Money::new(share).unwrap_or_default() }
        };
        (0..).zip(&self.members).map(share).collect()
    }
}
