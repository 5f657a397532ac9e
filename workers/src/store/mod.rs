//! Postgres, which decides: the rows of each aggregate.

pub mod carts;
pub mod locks;
pub mod orders;
pub mod outbox;
pub mod payments;
pub mod rows;
pub mod states;
pub mod tables;
pub mod users;
