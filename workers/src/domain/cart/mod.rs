//! Carts.
//!
//! ```text
//! (nothing) ── open ──► open ── join, add_item, commit_cod ──► open
//! ```
//!
//! A team cart has members, the owner first; other carts have none. What a member owes is
//! the sum of its own items and an equal part of the items without a user.

use brigade_contracts::{
    Address, Currency, MAX_ITEMS, Money, Part, Refusal, Timestamp, Token,
    cart::{self, Commitment, Core, Item, Kind, Payment, Payments, Share, Standing, Status, Verb},
    event::{self, CART_ITEM_ADDED, CART_MEMBER_COMMITTED, CART_MEMBER_JOINED, CART_OPENED},
};
use serde::Serialize;
use serde_json::{json, value::RawValue};

use super::{Decided, Fact, Head, raw};

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

type Result<T> = std::result::Result<T, Refusal>;

pub(super) fn decide(
    address: &Address,
    cart: Option<&Cart>,
    verb: &Verb,
    now: Timestamp,
) -> Result<Decided<Cart>> {
    if let Verb::Open(open) = verb {
        return match cart {
            None => Ok(open_cart(address, open, now)),
            Some(_) => Err(Refusal::new(409, "already_exists", "there is a cart of this id")),
        };
    }
    let cart = cart.ok_or_else(|| Refusal::new(404, "not_found", "there is no such cart"))?;
    if cart.status != Status::Open {
        return Err(Refusal::new(409, "cart_closed", "the cart is not open any more"));
    }
    match verb {
        Verb::Open(_) => unreachable!("decided above"),
        Verb::Join(join) => cart.join(&join.user, now),
        Verb::AddItem(item) => cart.add_item(item, now),
        Verb::CommitCod(commit) => cart.commit_cod(&commit.user, now),
    }
}

fn open_cart(address: &Address, open: &cart::Open, now: Timestamp) -> Decided<Cart> {
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
    Decided { status: 201, ..cart.record(CART_OPENED, open, now) }
}

impl Cart {
    fn join(&self, user: &Token, now: Timestamp) -> Result<Decided<Self>> {
        if self.kind != Kind::Team {
            return Err(Refusal::new(409, "not_a_team_cart", "only team carts have members"));
        }
        if self.is_member(user) {
            return Err(Refusal::new(409, "already_member", "this user is a member already"));
        }
        if self.members.len() >= MAX_ITEMS {
            return Err(Refusal::new(422, "too_large", "a cart has at most 200 members"));
        }
        let mut cart = self.clone();
        cart.members.push(Standing { user: user.clone(), committed: None, paid: Money::ZERO });
        Ok(cart.record(CART_MEMBER_JOINED, &json!({ "user": user }), now))
    }

    fn add_item(&self, add: &cart::AddItem, now: Timestamp) -> Result<Decided<Self>> {
        if self.paid > Money::ZERO {
            return Err(Refusal::new(
                409,
                "cart_paid",
                "something is paid: the items stay as they are",
            ));
        }
        if self.items.iter().any(|item| item.item_id == add.item_id) {
            return Err(Refusal::new(409, "item_exists", "there is an item of this id"));
        }
        if let Some(user) = &add.user
            && !self.is_member(user)
        {
            return Err(not_a_member());
        }
        if self.items.len() >= MAX_ITEMS {
            return Err(Refusal::new(422, "too_large", "a cart has at most 200 items"));
        }
        let item = Item {
            item_id: add.item_id.clone(),
            sku: add.sku.clone(),
            name: add.name.clone(),
            unit_price: add.unit_price,
            quantity: add.quantity,
            user: add.user.clone(),
        };
        self.total()?.plus(item.unit_price.times(item.quantity)?)?;
        let mut cart = self.clone();
        cart.items.push(item);
        Ok(cart.record(CART_ITEM_ADDED, add, now))
    }

    fn commit_cod(&self, user: &Token, now: Timestamp) -> Result<Decided<Self>> {
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

    /// Counts the change and makes its event. The answer shows `core`, and `payments` too
    /// where the change touches them.
    fn record(mut self, kind: event::Kind, data: &impl Serialize, now: Timestamp) -> Decided<Self> {
        self.head.touch(&kind, now);
        let touches_payments = kind.touches.contains(&Part::Payments);
        let core = self.part(Part::Core);
        let payments = touches_payments.then(|| self.part(Part::Payments));
        let shown = Shown { core: &core, payments: payments.as_deref() };
        let answer = raw(&shown);
        let after = event::After {
            ended: kind.ends,
            core: kind.ends.then(|| core.clone()),
            payments: payments.or_else(|| kind.ends.then(|| self.part(Part::Payments))),
        };
        let payload = event::Payload { data: raw(data), after };
        let fact = Fact { version: self.head.version, kind, at: now, payload };
        Decided { status: 200, state: self, facts: vec![fact], data: answer }
    }

    /// A part as it is shown: in KV, in queries, in outcomes and in events, all alike.
    #[must_use]
    pub fn part(&self, part: Part) -> Box<RawValue> {
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

#[derive(Serialize)]
struct Shown<'a> {
    core: &'a RawValue,
    #[serde(skip_serializing_if = "Option::is_none")]
    payments: Option<&'a RawValue>,
}

fn not_a_member() -> Refusal {
    Refusal::new(422, "not_a_member", "this user is no member of the cart")
}

#[cfg(test)]
mod tests;
