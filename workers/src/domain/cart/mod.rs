//! Carts.
//!
//! ```text
//! (nothing) ── open ──► open ── abandon ──► abandoned
//!                       │  ▲
//!                       └──┘ join, leave, add_item, set_item, remove_item, commit_cod
//! ```
//!
//! A team cart has members, the owner first; other carts have none. What a member owes is
//! the sum of its own items and an equal part of the items without a user.

use brigade_contracts::{
    Address, Currency, MAX_ITEMS, Money, Part, Refusal, Timestamp, Token,
    cart::{self, Commitment, Core, Item, Kind, Payment, Payments, Share, Standing, Status, Verb},
    event::{
        self, CART_ABANDONED, CART_ITEM_ADDED, CART_ITEM_CHANGED, CART_ITEM_REMOVED,
        CART_MEMBER_COMMITTED, CART_MEMBER_JOINED, CART_MEMBER_LEFT, CART_OPENED,
    },
};
use serde::Serialize;
use serde_json::{json, value::RawValue};

use super::{Decided, Head, Result, State, already_exists, not_found, raw, record, too_large};

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
    pub members: Vec<Standing>,
    pub items: Vec<Item>,
    pub paid: Money,
    pub refunded: Money,
    pub payments: Vec<Payment>,
    pub order_id: Option<Token>,
    pub locked_until: Option<Timestamp>,
}

pub(super) fn decide(
    address: &Address,
    cart: Option<&Cart>,
    verb: &Verb,
    now: Timestamp,
) -> Result<Decided> {
    if let Verb::Open(open) = verb {
        return match cart {
            None => Ok(open_cart(address, open, now)),
            Some(_) => Err(already_exists()),
        };
    }
    let cart = cart.ok_or_else(not_found)?;
    if cart.status != Status::Open {
        return Err(Refusal::new(409, "cart_closed", "the cart is not open any more"));
    }
    match verb {
        Verb::Open(_) => unreachable!("decided above"),
        Verb::Join(join) => cart.join(&join.user, now),
        Verb::AddItem(item) => cart.add_item(item, now),
        Verb::CommitCod(commit) => cart.commit_cod(&commit.user, now),
        Verb::Leave(leave) => cart.leave(&leave.user, now),
        Verb::SetItem(set) => cart.set_item(set, now),
        Verb::RemoveItem(remove) => cart.remove_item(remove, now),
        Verb::Abandon(abandon) => cart.abandon(abandon, now),
    }
}

fn open_cart(address: &Address, open: &cart::Open, now: Timestamp) -> Decided {
    let owner = Standing { user: open.owner.clone(), committed: None, paid: Money::ZERO };
    let cart = Cart {
        head: Head::unborn(address.clone(), now),
        kind: open.kind,
        owner: open.owner.clone(),
        session: open.session.clone(),
        status: Status::Open,
        currency: open.currency,
        members: if open.kind == Kind::Team { vec![owner] } else { Vec::new() },
        items: Vec::new(),
        paid: Money::ZERO,
        refunded: Money::ZERO,
        payments: Vec::new(),
        order_id: None,
        locked_until: None,
    };
    record(State::Cart(cart), CART_OPENED, open, 201, now)
}

impl Cart {
    fn join(&self, user: &Token, now: Timestamp) -> Result<Decided> {
        if self.kind != Kind::Team {
            return Err(Refusal::new(409, "not_a_team_cart", "only team carts have members"));
        }
        if self.is_member(user) {
            return Err(Refusal::new(409, "already_member", "this user is a member already"));
        }
        if self.members.len() >= MAX_ITEMS {
            return Err(too_large("a cart has at most 200 members"));
        }
        let mut cart = self.clone();
        cart.members.push(Standing { user: user.clone(), committed: None, paid: Money::ZERO });
        Ok(cart.record(CART_MEMBER_JOINED, &json!({ "user": user }), now))
    }

    fn add_item(&self, add: &cart::AddItem, now: Timestamp) -> Result<Decided> {
        let mut cart = self.with_items_free()?;
        if self.items.iter().any(|item| item.item_id == add.item_id) {
            return Err(Refusal::new(409, "item_exists", "there is an item of this id"));
        }
        if let Some(user) = &add.user
            && !self.is_member(user)
        {
            return Err(not_a_member());
        }
        if self.items.len() >= MAX_ITEMS {
            return Err(too_large("a cart has at most 200 items"));
        }
        let item = Item {
            item_id: add.item_id.clone(),
            sku: add.sku.clone(),
            name: add.name.clone(),
            unit_price: add.unit_price,
            quantity: add.quantity,
            user: add.user.clone(),
        };
        cart.items.push(item);
        cart.total()?;
        Ok(cart.record(CART_ITEM_ADDED, add, now))
    }

    fn commit_cod(&self, user: &Token, now: Timestamp) -> Result<Decided> {
        let mut cart = self.clone();
        let member = cart.members.iter_mut().find(|m| m.user == *user).ok_or_else(not_a_member)?;
        if member.committed.is_some() {
            return Err(Refusal::new(
                409,
                "already_committed",
                "this member has committed already",
            ));
        }
        member.committed = Some(Commitment::Cod);
        Ok(cart.record(CART_MEMBER_COMMITTED, &json!({ "user": user, "method": "cod" }), now))
    }

    fn is_member(&self, user: &Token) -> bool {
        self.members.iter().any(|member| member.user == *user)
    }

    /// What a member brought goes with it, so that the shares still sum to the total.
    fn leave(&self, user: &Token, now: Timestamp) -> Result<Decided> {
        let member = self.members.iter().find(|m| m.user == *user).ok_or_else(not_a_member)?;
        if *user == self.owner {
            return Err(Refusal::new(
                409,
                "owner_stays",
                "the owner cannot leave; abandon the cart",
            ));
        }
        if member.committed.is_some() {
            return Err(Refusal::new(409, "already_committed", "this member has committed to pay"));
        }
        if member.paid > Money::ZERO {
            return Err(Refusal::new(409, "member_paid", "this member has paid something"));
        }
        let own = |item: &&Item| item.user.as_ref() == Some(user);
        if self.paid > Money::ZERO && self.items.iter().any(|item| own(&item)) {
            return Err(cart_paid());
        }
        let mut cart = self.clone();
        cart.members.retain(|member| member.user != *user);
        cart.items.retain(|item| !own(&item));
        let gone: Vec<_> = self.items.iter().filter(own).map(|item| &item.item_id).collect();
        Ok(cart.record(CART_MEMBER_LEFT, &json!({ "user": user, "items": gone }), now))
    }

    fn set_item(&self, set: &cart::SetItem, now: Timestamp) -> Result<Decided> {
        let mut cart = self.with_items_free()?;
        let item = cart.items.iter_mut().find(|item| item.item_id == set.item_id);
        item.ok_or_else(item_not_found)?.quantity = set.quantity;
        cart.total()?;
        Ok(cart.record(CART_ITEM_CHANGED, set, now))
    }

    fn remove_item(&self, remove: &cart::RemoveItem, now: Timestamp) -> Result<Decided> {
        let mut cart = self.with_items_free()?;
        let at = cart.items.iter().position(|item| item.item_id == remove.item_id);
        cart.items.remove(at.ok_or_else(item_not_found)?);
        Ok(cart.record(CART_ITEM_REMOVED, remove, now))
    }

    fn abandon(&self, reason: &cart::Reason, now: Timestamp) -> Result<Decided> {
        let mut cart = self.with_items_free()?;
        cart.status = Status::Abandoned;
        Ok(cart.record(CART_ABANDONED, reason, now))
    }

    /// A copy to change; refused once anything is paid.
    fn with_items_free(&self) -> Result<Self> {
        if self.paid > Money::ZERO { Err(cart_paid()) } else { Ok(self.clone()) }
    }

    fn record(self, kind: event::Kind, data: &impl Serialize, now: Timestamp) -> Decided {
        record(State::Cart(self), kind, data, 200, now)
    }

    /// See [`State::part`].
    pub(super) fn part(&self, part: Part) -> Box<RawValue> {
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
                payments: self.payments.clone(),
            }),
        }
    }

    /// The sum of all items.
    ///
    /// # Errors
    /// `422 amount_overflow`.
    pub fn total(&self) -> Result<Money> {
        self.items
            .iter()
            .try_fold(Money::ZERO, |sum, item| sum.plus(item.unit_price.times(item.quantity)?))
    }

    /// What each member owes: its own items, and an equal part of the items without a user by
    /// largest remainder. All remainders of an equal split are alike, so the first to join
    /// carry one unit more. The shares sum to the total.
    fn shares(&self) -> Vec<Share> {
        let sum_of = |user: Option<&Token>| {
            let items = self.items.iter().filter(|item| item.user.as_ref() == user);
            items
                .map(|item| item.unit_price.minor_units() * i64::from(item.quantity.get()))
                .sum::<i64>()
        };
        let (count, common) = (self.members.len(), sum_of(None));
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        let share = |(at, member): (i64, &Standing)| {
            let extra = i64::from(at < common % count);
            let share = sum_of(Some(&member.user)) + common / count + extra;
            Share { user: member.user.clone(), share: Money::new(share).unwrap_or_default() }
        };
        (0..).zip(&self.members).map(share).collect()
    }
}

fn cart_paid() -> Refusal {
    Refusal::new(409, "cart_paid", "something is paid: the items stay as they are")
}

fn item_not_found() -> Refusal {
    Refusal::new(404, "item_not_found", "there is no such item in the cart")
}

fn not_a_member() -> Refusal {
    Refusal::new(422, "not_a_member", "this user is no member of the cart")
}

#[cfg(test)]
mod tests;
