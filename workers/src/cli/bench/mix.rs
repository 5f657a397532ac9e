//! The standard mix of commands.
//!
//! | share | command |
//! |---|---|
//! | 40 % | cart changes: a quantity set, an item added, an added item removed |
//! | 10 % | orders placed |
//! | 40 % | steps of orders: three of four orders go from `accept` to `complete`, the others are cancelled, so that each ends |
//! | 10 % | cash commitments, each by another member of a team cart |
//!
//! Of all these, 5 % are repetitions: the same Command-Id and payload as an earlier command that has
//! its outcome. A command that needs another one's effect is sent after that one's outcome. Tenants are
//! drawn by Zipf's law; commitments go around all carts, so that no cart has a crowd of members.

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
};

use bytes::Bytes;
use rand::{Rng, SeedableRng, rngs::StdRng};
use serde_json::{Value, json};

use super::zipf::Zipf;

pub const TENANTS: usize = 200;
/// Of all tenants together, in the standard mix.
pub const CARTS: usize = 10_000;
const STEPS: [&str; 5] = ["accept", "prepare", "ready", "serve", "complete"];
/// Commands that may be repeated.
const REMEMBERED: usize = 2000;

/// A command, and what has to become of it.
#[derive(Clone)]
pub struct Command {
    pub id: String,
    pub tenant: usize,
    /// `<aggregate>.<id>.<verb>`.
    pub what: String,
    pub payload: Bytes,
    pub status: &'static str,
    then: Then,
}

impl Command {
    /// The tenant and the order, where it places one (not again).
    pub fn places(&self) -> Option<(usize, u64)> {
        match self.then {
            Then::Step(order) if order.step == 0 => Some((order.tenant, order.number)),
            _ => None,
        }
    }
}

/// What is possible after a command.
#[derive(Clone, Copy)]
enum Then {
    Nothing,
    Step(Order),
    Remove(usize, u64),
    Commit(usize, u64),
}

/// An order that has taken `step` steps.
#[derive(Clone, Copy)]
struct Order {
    tenant: usize,
    number: u64,
    step: usize,
}

/// What is to be sent next; shared by all senders.
pub struct Mix(Mutex<Inner>);

struct Inner {
    random: StdRng,
    tenants: Zipf,
    carts: usize,
    /// Distinct commands so far.
    made: u64,
    orders: VecDeque<Order>,
    added: VecDeque<(usize, u64)>,
    members: VecDeque<(usize, u64)>,
    past: VecDeque<Command>,
}

impl Mix {
    /// `carts` carts of 200 tenants. They are to be opened first: [`Mix::opening`].
    pub fn new(carts: usize) -> Self {
        Self(Mutex::new(Inner {
            random: StdRng::seed_from_u64(7),
            tenants: Zipf::new(TENANTS),
            carts,
            made: 0,
            orders: VecDeque::new(),
            added: VecDeque::new(),
            members: VecDeque::new(),
            past: VecDeque::new(),
        }))
    }

    pub fn carts(&self) -> usize {
        self.inner().carts
    }

    /// What opens a cart and puts the items in that stay.
    pub fn opening(&self, cart: usize) -> [Command; 3] {
        let mut inner = self.inner();
        let open = json!({ "kind": "team", "owner": "ada", "currency": "EUR" });
        [
            inner.of_cart(cart, "open", &open, "201", Then::Nothing),
            inner.of_cart(cart, "add_item", &item("pizza"), "200", Then::Nothing),
            inner.of_cart(cart, "add_item", &item("water"), "200", Then::Nothing),
        ]
    }

    /// A new member, whose commitment the mix can then send.
    pub fn joining(&self) -> Command {
        let mut inner = self.inner();
        let (n, cart) = (inner.made, inner.made as usize % inner.carts);
        let user = json!({ "user": format!("m{n}") });
        inner.of_cart(cart, "join", &user, "200", Then::Commit(cart, n))
    }

    /// An order of a tenant.
    pub fn placing(&self, tenant: usize) -> Command {
        self.inner().place(tenant)
    }

    /// Members that have not committed yet.
    pub fn members(&self) -> usize {
        self.inner().members.len()
    }

    /// The next command of the mix.
    pub fn next(&self) -> Command {
        let mut inner = self.inner();
        if !inner.past.is_empty() && inner.random.random_ratio(5, 100) {
            let count = inner.past.len();
            let at = inner.random.random_range(0..count);
            return Command { then: Then::Nothing, ..inner.past[at].clone() };
        }
        match inner.random.random_range(0..100) {
            0..10 => inner.place_anywhere(),
            10..50 => inner.step().unwrap_or_else(|| inner.place_anywhere()),
            50..60 => inner.commit().unwrap_or_else(|| inner.change()),
            _ => inner.change(),
        }
    }

    /// The next step of an order that has not ended; `None` where none is left (those under way
    /// are back after [`Mix::done`]).
    pub fn ending(&self) -> Option<Command> {
        self.inner().step()
    }

    /// A command has its outcome.
    pub fn done(&self, command: Command) {
        let mut inner = self.inner();
        match command.then {
            Then::Nothing => {}
            Then::Step(order) if order.step == STEPS.len() => {}
            Then::Step(order) => inner.orders.push_back(order),
            Then::Remove(cart, n) => inner.added.push_back((cart, n)),
            Then::Commit(cart, n) => inner.members.push_back((cart, n)),
        }
        inner.past.push_back(command);
        if inner.past.len() > REMEMBERED {
            inner.past.pop_front();
        }
    }

    /// Distinct commands that were handed out.
    pub fn distinct(&self) -> u64 {
        self.inner().made
    }

    fn inner(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn command(
        &mut self,
        tenant: usize,
        what: String,
        payload: &Value,
        status: &'static str,
        then: Then,
    ) -> Command {
        self.made += 1;
        let (id, payload) = (format!("k{}", self.made), payload.to_string().into());
        Command { id, tenant, what, payload, status, then }
    }

    fn of_cart(
        &mut self,
        cart: usize,
        verb: &str,
        payload: &Value,
        status: &'static str,
        then: Then,
    ) -> Command {
        self.command(cart % TENANTS, format!("cart.c{cart}.{verb}"), payload, status, then)
    }

    fn place_anywhere(&mut self) -> Command {
        let tenant = self.tenants.draw(&mut self.random);
        self.place(tenant)
    }

    fn place(&mut self, tenant: usize) -> Command {
        let number = self.made;
        let then = Then::Step(Order { tenant, number, step: 0 });
        self.command(tenant, format!("order.o{number}.place"), &order(), "201", then)
    }

    fn step(&mut self) -> Option<Command> {
        let Order { tenant, number, step } = self.orders.pop_front()?;
        // One of four: then 10 % of orders have 40 % of steps, all in all.
        if number.is_multiple_of(4) {
            let (what, reason) = (format!("order.o{number}.cancel"), json!({ "reason": "late" }));
            return Some(self.command(tenant, what, &reason, "200", Then::Nothing));
        }
        let then = Then::Step(Order { tenant, number, step: step + 1 });
        let what = format!("order.o{number}.{}", STEPS[step]);
        Some(self.command(tenant, what, &json!({}), "200", then))
    }

    fn commit(&mut self) -> Option<Command> {
        let (cart, n) = self.members.pop_front()?;
        let user = json!({ "user": format!("m{n}") });
        Some(self.of_cart(cart, "commit_cod", &user, "200", Then::Nothing))
    }

    fn change(&mut self) -> Command {
        let tenant = self.tenants.draw(&mut self.random);
        let cart = tenant + TENANTS * self.random.random_range(0..self.carts / TENANTS);
        match (self.random.random_range(0..4), self.added.pop_front()) {
            (0, Some((cart, n))) => {
                let item = json!({ "item_id": format!("i{n}") });
                self.of_cart(cart, "remove_item", &item, "200", Then::Nothing)
            }
            (kind, added) => {
                self.added.extend(added);
                if kind == 1 {
                    let n = self.made;
                    let then = Then::Remove(cart, n);
                    return self.of_cart(cart, "add_item", &item(&format!("i{n}")), "200", then);
                }
                let quantity = self.random.random_range(1..100);
                let set = json!({ "item_id": "pizza", "quantity": quantity });
                self.of_cart(cart, "set_item", &set, "200", Then::Nothing)
            }
        }
    }
}

fn item(id: &str) -> Value {
    json!({ "item_id": id, "sku": "P-1", "name": "Pizza Margherita", "unit_price": 1250,
            "quantity": 1 })
}

fn order() -> Value {
    json!({ "currency": "EUR", "items": [
        { "sku": "P-1", "name": "Pizza Margherita", "unit_price": 1250, "quantity": 2 },
        { "sku": "W-1", "name": "Water", "unit_price": 300, "quantity": 1 } ] })
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn the_shares_are_those_of_the_table_and_every_order_ends() {
        let mix = Mix::new(CARTS);
        for _ in 0..3000 {
            mix.done(mix.joining());
        }
        let before = mix.distinct();
        let mut counts: HashMap<String, u32> = HashMap::new();
        for _ in 0..20_000 {
            let command = mix.next();
            let verb = command.what.rsplit('.').next().unwrap();
            *counts.entry(verb.to_owned()).or_default() += 1;
            mix.done(command);
        }
        let share = |verbs: &[&str]| {
            verbs.iter().map(|verb| counts.get(*verb).copied().unwrap_or(0)).sum::<u32>() / 200
        };
        assert!((38..=42).contains(&share(&["set_item", "add_item", "remove_item"])), "{counts:?}");
        assert!((9..=12).contains(&share(&["place"])), "{counts:?}");
        assert!((37..=42).contains(&share(&[&STEPS[..], &["cancel"]].concat())), "{counts:?}");
        assert!((9..=11).contains(&share(&["commit_cod"])), "{counts:?}");
        let repeated = 20_000 - (mix.distinct() - before);
        assert!((800..1200).contains(&repeated), "{repeated} repetitions");
        let (mut placed, mut ended) = (counts["place"], counts["complete"] + counts["cancel"]);
        while let Some(command) = mix.ending() {
            placed += u32::from(command.what.ends_with("place"));
            ended +=
                u32::from(command.what.ends_with("complete") | command.what.ends_with("cancel"));
            mix.done(command);
        }
        // Repetitions of either are among them.
        assert!(placed.abs_diff(ended) < placed / 5, "{placed} placed, {ended} ended");
    }
}
