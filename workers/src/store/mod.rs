//! Postgres, which decides: the rows of each aggregate, and how they are loaded and saved.

pub mod carts;
pub mod gateway_secrets;
pub mod ledger;
pub mod locks;
pub mod login_failures;
pub mod named_people;
pub mod orders;
pub mod outbox;
pub mod payments;
pub mod people;
pub mod products;
pub mod rows;
pub mod security_log;
pub mod states;
pub mod tables;
pub mod users;

#[cfg(test)]
mod tests;
