//! Live streams: the changes of a list or a view, as server-sent events.
//!
//! **Terms.** A *topic* is what a stream is about ([`topic`]): the active orders of a tenant
//! ([`list`]) or an aggregate ([`view`]). While it has readers it has one *hub* in each edge
//! ([`hub`]), which queries for all of them and sends all of them the same bytes ([`sse`]).
//!
//! **Guarantee.** A reader that joins gets nothing older than an outcome that was sent before it
//! joined; then every change, and never an older row after a newer one. One that was cut off, for
//! whatever reason, and joins again with the last `id` that it got, at any edge, misses nothing.
//!
//! **Bounds.** There are at most [`streams::MAX_READERS`] readers, a quarter of them of one tenant,
//! few of one user, and some are left to staff.
//! Snapshots are charged to the tenant's [response budget](super::response_budget); what is kept
//! for a slow reader after that is bounded by the hub, and a reader that takes nothing at all loses
//! its connection. With each heartbeat the reader is authorized again; while Postgres is
//! unavailable it goes on. A drain ends all streams at once: readers join again, at another edge.

mod hub;
mod list;
mod sse;
mod streams;
mod topic;
mod view;

pub use self::{list::ActiveOrdersTopic, streams::LiveStreams, topic::Topic, view::ViewTopic};
