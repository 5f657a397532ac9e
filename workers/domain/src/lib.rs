//! The pure core: every rule of the domain, without I/O, clock or randomness.
//!
//! [`World`] holds the aggregates and locks that a batch has loaded. [`World::decide`] lets one
//! command change them, so that the next command of the batch sees the result, and collects what is
//! to be written: states, events, the history of locks, refund tasks. A command works on a draft
//! (`draft`), of which nothing stays if it comes to something that the batch has not locked.

#[cfg(test)]
mod bounds;
pub mod cart;
mod draft;
mod head;
pub mod lock;
pub mod model;
pub mod order;
pub mod payment;
mod state;
pub mod table;
#[cfg(test)]
mod testing;
pub mod user;
mod world;

use brigade_contracts::{MAX_CONTENTS, Refusal};
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};

pub use cart::Cart;
pub use head::Head;
pub use lock::Lock;
pub use order::Order;
pub use payment::{Entry, Payment};
pub use state::State;
pub use table::{Table, Turn};
pub use user::User;
pub use world::{Event, HistoryRow, LockMetric, LockPolicy, Mode, Reach, Want, World};

/// Largest part `core` of a cart or an order into which something is put. It may grow a little
/// besides: by the deadline of a lock, the id of the order, shares with another digit.
const MOST_CONTENTS: usize = MAX_CONTENTS - 1024;

/// Serialises a shape of ours.
///
/// # Panics
/// Never: the shapes have string keys and no failing `Serialize`.
fn raw<T: Serialize + ?Sized>(value: &T) -> Box<RawValue> {
    to_raw_value(value).expect("shapes serialise")
}

fn already_exists() -> Refusal {
    Refusal::new(409, "already_exists", "there is something of this id already")
}

fn not_found() -> Refusal {
    Refusal::new(404, "not_found", "there is nothing of this id")
}

fn table_not_found() -> Refusal {
    Refusal::new(404, "table_not_found", "there is no such table")
}

fn too_large(what: &'static str) -> Refusal {
    Refusal::new(422, "too_large", what)
}
