//! The pure core: every rule of the domain, without I/O, clock or randomness.
//!
//! From the top:
//!
//! - [`BatchState`] holds the aggregates and locks that a batch has loaded. It lets one command
//!   after the other change them, so that each sees the result of those before, and collects what
//!   is to be stored: states, events, the history of locks, refund tasks.
//! - `decide` takes a command to its aggregate, and turns the result into an outcome.
//! - `payment`, `cart`, `order`, `table` and `lock` hold the rules, and `user` by itself. Each may
//!   use those after it in this line: a payment its cart or order, a cart its order and its lock.
//!   `product` is the price list, from which carts and orders take names and prices.
//!   A rule gathers what it needs from the unit of work, decides on plain states, and records what
//!   it changed.
//! - `relation` says whether a customer may do what he asks for.
//! - `unit_of_work` is one command: what it has looked up, and what it changes. Of a command that
//!   is refused, or that finds something missing, nothing stays.
//! - `state` holds the aggregates as SQL keeps them, and the projections of their parts.

mod batch;
#[cfg(test)]
mod bounds;
mod cart;
mod changes;
mod decide;
mod head;
mod inputs;
mod json;
mod ledger;
mod loaded;
mod lock;
mod lock_attempt;
pub mod model;
mod order;
mod outcome;
mod payment;
mod policy;
mod product;
mod refusal;
mod relation;
mod security;
mod state;
mod table;
#[cfg(test)]
mod testing;
mod throttle;
mod unit_of_work;
pub mod user;

pub use batch::BatchState;
pub use changes::{Event, HistoryRow, Hook, LockMetric};
pub use head::Head;
pub use ledger::{Ledger, LedgerEntry, LedgerKey};
pub use loaded::{LockSet, Missing, Mode};
pub use policy::LockPolicy;
pub use security::{SecurityEntry, SecurityKind};
pub use state::{
    Capture, Cart, Entry, Lock, Order, Payment, Product, State, Table, Turn, User, active_payment,
};
