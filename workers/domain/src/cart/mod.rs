//! Carts.
//!
//! ```text
//! (nothing) ── open ──► open ── check_out, or the capture that pays it fully ──► checked_out
//!                       │  ▲ └─ abandon ──► abandoned
//!                       └──┘ join, leave, add_item, set_item, remove_item, commit_cod, claim,
//!                            payments; lock, bind_transaction, extend, unlock, expire_lock
//! ```
//!
//! A team cart has members, the owner first; other carts have none. What a member owes is
//! the sum of its own items and an equal part of the items without a user. While a lock of the
//! owner is live (`super::lock`), members and items of all its carts stay as they are.

mod check_out;
mod claim;
mod items;
mod locking;
mod members;

use brigade_contracts::{
    Address, Aggregate, Currency, MAX_OPEN_CARTS, Money, Part, Refusal, Timestamp, Token,
    cart::{Core, Item, Kind, Open, Payments, Share, Standing, Status, Verb},
    event::{CART_ABANDONED, CART_OPENED},
};
use serde::Serialize;
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use super::{
    Entry, Head,
    json::raw,
    loaded::Mode,
    outcome::{Done, Result},
    refusal::{MOST_CONTENTS, already_exists, not_found, too_large},
    state::entry as payment,
    unit_of_work::UnitOfWork,
};

pub(super) use self::{check_out::check_out, locking::cart_empty};

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
    /// The sum of what its payments had applied to it; it stays after the check-out.
    pub paid: Money,
    pub refunded: Money,
    pub payments: Vec<Entry>,
    pub order_id: Option<Token>,
    /// The deadline of the lock that this cart holds for its owner.
    pub locked_until: Option<Timestamp>,
    /// How many refusals it met while no lock was live; counting one changes no version.
    pub refusals: u32,
}

pub(super) fn decide(draft: &mut UnitOfWork<'_>, address: &Address, verb: &Verb) -> Result<Done> {
    if let Verb::Open(open) = verb {
        return open_cart(draft, address, open);
    }
    let cart = draft.cart(address)?.ok_or_else(not_found)?;
    if cart.status != Status::Open {
        return Err(closed().into());
    }
    match verb {
        Verb::Open(_) => unreachable!("decided above"),
        Verb::CommitCod(commit) => members::commit_cod(draft, cart, &commit.user),
        Verb::Claim(claim) => claim::claim(draft, cart, &claim.user),
        Verb::Lock(lock) => locking::lock(draft, cart, lock),
        Verb::BindTransaction(bind) => locking::bind_transaction(draft, cart, bind),
        Verb::Extend(extend) => locking::extend(draft, cart, extend),
        Verb::Unlock(unlock) => locking::unlock(draft, cart, unlock),
        Verb::ExpireLock(held) => locking::expire(draft, cart, held.token),
        Verb::CheckOut(said) => {
            check_out(draft, cart, &said.order_id, said.table_id.as_ref(), said.token)?;
            Ok(Done::ok())
        }
        Verb::Join(join) => {
            let cart = draft.unlocked(cart)?;
            members::join(draft, cart, &join.user)
        }
        Verb::Leave(leave) => {
            let cart = draft.unlocked(cart)?;
            members::leave(draft, cart, &leave.user)
        }
        Verb::AddItem(item) => {
            let cart = draft.unlocked(cart)?;
            items::add(draft, cart, item)
        }
        Verb::SetItem(set) => {
            let cart = draft.unlocked(cart)?;
            items::set(draft, cart, set)
        }
        Verb::RemoveItem(remove) => {
            let cart = draft.unlocked(cart)?;
            items::remove(draft, cart, remove)
        }
        Verb::Abandon(reason) => {
            let mut cart = draft.unlocked(cart)?.with_items_free()?;
            if cart.has_open_payment(None) {
                return Err(payment_open().into());
            }
            cart.status = Status::Abandoned;
            draft.put_record(cart, CART_ABANDONED, reason);
            Ok(Done::ok())
        }
    }
}

fn open_cart(draft: &mut UnitOfWork<'_>, address: &Address, open: &Open) -> Result<Done> {
    if draft.cart(address)?.is_some() {
        return Err(already_exists().into());
    }
    for name in [Some(&open.owner), open.session.as_ref()].into_iter().flatten() {
        if draft.open_carts_of(name)? >= MAX_OPEN_CARTS {
            return Err(too_many_carts().into());
        }
    }
    let member = Standing { user: open.owner.clone(), committed: None, paid: Money::ZERO };
    let cart = Cart {
        head: Head::unborn(address.clone(), draft.now),
        kind: open.kind,
        owner: open.owner.clone(),
        session: open.session.clone(),
        status: Status::Open,
        currency: open.currency,
        members: if open.kind == Kind::Team { vec![member] } else { Vec::new() },
        items: Vec::new(),
        paid: Money::ZERO,
        refunded: Money::ZERO,
        payments: Vec::new(),
        order_id: None,
        locked_until: None,
        refusals: 0,
    };
    draft.put_record(cart, CART_OPENED, open);
    Ok(Done::created())
}

impl UnitOfWork<'_> {
    /// How many open carts are a user's or a session's. Both are locked for it like owners,
    /// exclusively: nobody opens or claims another one meanwhile.
    fn open_carts_of(&mut self, name: &Token) -> Result<usize> {
        let lock = self.address(Aggregate::Lock, name);
        self.require_owner(&lock, Mode::Exclusive)?;
        self.open_carts(name)
    }

    /// The cart, unless its owner's lock keeps it as it is.
    fn unlocked(&mut self, cart: Cart) -> Result<Cart> {
        match self.live_lock(&cart.owner)? {
            Some(lock) => Err(lock.refusal(self.now)),
            None => Ok(self.again(cart)),
        }
    }
}

impl Cart {
    #[must_use]
    pub fn is_member(&self, user: &Token) -> bool {
        self.members.iter().any(|member| member.user == *user)
    }

    /// Refused once anything is paid.
    fn with_items_free(self) -> Result<Self> {
        if self.paid > Money::ZERO { Err(cart_paid().into()) } else { Ok(self) }
    }

    /// Whether money may still come in, under the lock of this token or under any.
    #[must_use]
    pub fn has_open_payment(&self, token: Option<i64>) -> bool {
        payment::open(&self.payments).any(|entry| token.is_none() || entry.token == token)
    }

    #[must_use]
    pub fn due(&self) -> Money {
        self.total().unwrap_or_default().less(self.paid)
    }

    /// See [`super::State::part`].
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
                payments: payment::shown(&self.payments),
            }),
            Part::Auth | Part::Subscription | Part::Roles => raw(&()),
        }
    }

    /// Refuses a cart that holds more than it may.
    fn require_fitting(&self) -> Result<()> {
        if self.part(Part::Core).get().len() <= MOST_CONTENTS {
            return Ok(());
        }
        Err(too_large("a cart has at most 64 KiB").into())
    }

    /// The sum of all items.
    ///
    /// # Errors
    /// `422 amount_overflow`.
    pub fn total(&self) -> std::result::Result<Money, Refusal> {
        self.items
            .iter()
            .try_fold(Money::ZERO, |sum, item| sum.plus(item.unit_price.times(item.quantity)?))
    }

    /// Lower-case hex SHA-256 over the canonical JSON of the contents that are paid for: sorted
    /// keys, no spaces, items sorted by id.
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

fn too_many_carts() -> Refusal {
    let message = "an owner, and a session, has at most 50 open carts";
    Refusal::new(409, "too_many_carts", message)
}

pub(super) fn closed() -> Refusal {
    Refusal::new(409, "cart_closed", "the cart is not open any more")
}

fn cart_paid() -> Refusal {
    Refusal::new(409, "cart_paid", "something is paid: the items stay as they are")
}

pub(super) fn payment_open() -> Refusal {
    Refusal::new(409, "payment_open", "a payment is open: it has to end first")
}

pub(super) fn not_a_member() -> Refusal {
    Refusal::new(422, "not_a_member", "this user is no member of the cart")
}

#[cfg(test)]
mod tests;
