//! The standard mix of commands.
//!
//! | share | command |
//! |---|---|
//! | 40 % | cart changes: a quantity set, an item added, an added item removed |
//! | 10 % | orders placed |
//! | 40 % | steps of orders: three of four orders go from `accept` to `complete`, the others are cancelled, so that each ends |
//! | 10 % | cash commitments, each by another member of a team cart |
//!
//! 5 % of all are repetitions: the same Command-Id and payload as an earlier command that has its
//! outcome. A command that needs another one's effect is sent after that one's outcome. Tenants are
//! drawn by Zipf's law; commitments go around all carts, so that no cart has a crowd of members.

mod command;
mod state;
#[cfg(test)]
mod tests;

use std::sync::{Mutex, PoisonError};

use rand::Rng;
use rand_distr::{Distribution, Zipf};
use serde_json::json;

pub use self::command::MixCommand;
use self::{
    command::{STEPS, Then},
    state::{MixState, item},
};

pub const TENANTS: usize = 200;
/// The number of carts of all tenants together, in the standard mix.
pub const CARTS: usize = 10_000;
/// Commands that may be repeated.
const REMEMBERED: usize = 2000;

/// Draws tenants by Zipf's law: the n-th 1/n as often as the first.
pub struct TenantDistribution(Zipf<f64>);

impl TenantDistribution {
    /// # Panics
    /// Never: there is a tenant, and the exponent is 1.
    pub fn new() -> Self {
        Self(Zipf::new(TENANTS as f64, 1.0).expect("a distribution"))
    }

    pub fn draw(&self, random: &mut impl Rng) -> usize {
        self.0.sample(random) as usize - 1
    }
}

/// The commands to be sent next; shared by all senders.
pub struct Mix(Mutex<MixState>);

impl Mix {
    /// `carts` carts of 200 tenants. They are to be opened first: [`Mix::opening`].
    pub fn new(carts: usize) -> Self {
        Self(Mutex::new(MixState::new(carts)))
    }

    pub fn carts(&self) -> usize {
        self.state().carts
    }

    /// Returns the commands that open a cart and put the items in that stay.
    pub fn opening(&self, cart: usize) -> [MixCommand; 3] {
        let mut state = self.state();
        let owner = format!("ada-{cart}");
        let open = json!({ "kind": "team", "owner": owner, "currency": "EUR" });
        [
            state.of_cart(cart, "open", &open, "201", Then::Nothing),
            state.of_cart(cart, "add_item", &item("pizza"), "200", Then::Nothing),
            state.of_cart(cart, "add_item", &item("water"), "200", Then::Nothing),
        ]
    }

    /// A new member, whose commitment the mix can then send.
    pub fn joining(&self) -> MixCommand {
        let mut state = self.state();
        let (n, cart) = (state.made, state.made as usize % state.carts);
        let user = json!({ "user": format!("m{n}") });
        state.of_cart(cart, "join", &user, "200", Then::Commit(cart, n))
    }

    /// An order of a tenant.
    pub fn placing(&self, tenant: usize) -> MixCommand {
        self.state().place(tenant)
    }

    /// Members that have not committed yet.
    pub fn members(&self) -> usize {
        self.state().members.len()
    }

    /// The next command of the mix.
    pub fn next(&self) -> MixCommand {
        let mut state = self.state();
        if !state.past.is_empty() && state.random.random_ratio(5, 100) {
            let count = state.past.len();
            let at = state.random.random_range(0..count);
            return MixCommand { then: Then::Nothing, ..state.past[at].clone() };
        }
        match state.random.random_range(0..100) {
            0..10 => state.place_anywhere(),
            10..50 => state.step().unwrap_or_else(|| state.place_anywhere()),
            50..60 => state.commit().unwrap_or_else(|| state.change()),
            _ => state.change(),
        }
    }

    /// The next step of an order that has not ended; `None` where none is left (those under way
    /// are back after [`Mix::done`]).
    pub fn ending(&self) -> Option<MixCommand> {
        self.state().step()
    }

    /// A command has its outcome.
    pub fn done(&self, command: MixCommand) {
        let mut state = self.state();
        match command.then {
            Then::Nothing => {}
            Then::Step(order) if order.step == STEPS.len() => {}
            Then::Step(order) => state.orders.push_back(order),
            Then::Remove(cart, n) => state.added.push_back((cart, n)),
            Then::Commit(cart, n) => state.members.push_back((cart, n)),
        }
        state.past.push_back(command);
        if state.past.len() > REMEMBERED {
            state.past.pop_front();
        }
    }

    /// Distinct commands that were handed out.
    pub fn distinct(&self) -> u64 {
        self.state().made
    }

    fn state(&self) -> std::sync::MutexGuard<'_, MixState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
