//! The contract between brigade and the outside, as types: messages, subjects, keys, limits,
//! permissions and topology. No I/O happens here.
//!
//! Every subject and key that exists is built and parsed in [`subject`] and [`key`],
//! and only a [`Token`] can get into one. A payload that decoded is valid by its
//! types ([`Token`], [`Money`], [`Quantity`], [`Text`], [`Currency`]); what is left for
//! the domain is only what depends on state.

pub mod aggregate;
pub mod cart;
#[cfg(feature = "client")]
pub mod client;
pub mod command;
pub mod day_close;
pub mod email;
pub mod era;
pub mod etag;
pub mod event;
pub mod header;
pub mod id_space;
pub mod key;
pub mod list;
pub mod lock;
pub mod money;
pub mod order;
pub mod outcome;
pub mod page;
pub mod payment;
pub mod permissions;
pub mod planted;
pub mod product;
pub mod query;
pub mod rebuild;
pub mod refusal;
pub mod relation;
pub mod schema;
pub mod secret;
pub mod subject;
pub mod table;
pub mod tenant;
pub mod text;
pub mod timestamp;
pub mod token;
pub mod topology;
pub mod user;
pub mod verb;
pub mod worker;

pub use aggregate::{Address, Aggregate, Part, PartVersions, SHARDS, shard_of};
pub use command::{Body, Command, Door};
pub use email::Email;
pub use era::{Era, EraVersion};
pub use etag::IfNoneMatch;
pub use id_space::{CommandKey, IdSpace, Via};
pub use money::{Currency, Money, Quantity};
pub use outcome::Outcome;
pub use refusal::Refusal;
pub use relation::Relation;
pub use secret::{NewPassword, Secret};
pub use text::Text;
pub use timestamp::Timestamp;
pub use token::Token;
pub use worker::WorkerName;

/// Largest payload of a command, in bytes.
pub const MAX_PAYLOAD: usize = 64 * 1024;
/// Most bytes that all headers of a command may take together, names and values.
pub const MAX_HEADERS: usize = 4 * 1024;
/// Largest header block of a command or a query, in bytes as it is written: of a larger one not all
/// is read.
pub const MAX_HEADER_BLOCK: usize = 2 * MAX_HEADERS;
/// Most items in a cart or an order.
pub const MAX_ITEMS: usize = 200;
/// Longest name, in characters.
pub const MAX_NAME: usize = 200;
/// Longest note, in characters.
pub const MAX_NOTE: usize = 500;
/// The largest amount that comes in at once, price, and total of a cart or an order, in the minor unit:
/// thousands of them still add up to what an amount can be, and no program rounds it.
pub const MAX_AMOUNT: i64 = 999_999_999_999_999;
/// Most payments that a cart or an order keeps. Those that ended without money make room for new
/// ones.
pub const MAX_PAYMENTS: usize = 50;
/// Largest part `core` of a cart or an order, in bytes of JSON.
pub const MAX_CONTENTS: usize = 64 * 1024;
/// Most orders of a turn.
pub const MAX_ORDERS_OF_TURN: usize = 200;
/// Most open carts of an owner, and of a session.
pub const MAX_OPEN_CARTS: usize = 50;
/// Most orders of an owner that are neither accepted nor paid, of which customers add no more.
pub const MAX_PENDING_ORDERS: usize = 20;
/// Largest payload of an event, in bytes: with its headers every event is below 256 KiB.
pub const MAX_EVENT: usize = 255 * 1024;
/// Version of the event and part shapes, sent as `Schema-Version`.
pub const SCHEMA_VERSION: u32 = 1;
