//! The one loop that takes messages, hands them to a worker and acknowledges them ([`consume`]).
//!
//! A batch is whatever is there; nothing is waited for. While one batch is at work the next one
//! fills up, which makes batches large under load and small without. No other is begun beside a
//! small one: that would make both smaller still, and dearer for the servers. While messages are in
//! hand the server is informed. When a batch panics, each of its messages gets a try of its own.
//!
//! Within a source tenants are served in turn, and the number of requests of one that may wait is
//! bounded. While a tenant's flood fills batches, the other tenants have batches of their own
//! ([`in_hand::BatchKind::Express`]), as they have beside a batch that takes long: two batches at
//! work never have messages of the same tenant, so neither waits for rows of the other, and a
//! tenant's order stays. While others are served, a flood's batch is small ([`room`]). What a
//! tenant sends whom a lock holds up counts as a flood. Messages that are handled alone, and those
//! that wait for somebody else's lock, have room of their own.
//!
//! A batch is acknowledged beside those at work, since the server syncs a disk before it confirms.
//! A process that dies before that gets the messages again, and finds their commands in the inbox.
//!
//! While a consumer has a backlog, other consumers may deliver the messages of other tenants ahead
//! of it ([`Lane`]). Such a message is done, or left to the consumer that delivers it too: only
//! that one has its last try and dead-letters it.

mod acknowledge;
mod attempts;
mod consumer;
mod fair_queue;
mod given_back;
mod handler;
mod held;
mod in_hand;
mod lane;
mod limits;
mod pull;
mod queues;
mod receive;
mod redelivery;
mod remaining;
mod room;
mod source;
mod subscribe;
mod work;

pub use self::{
    consumer::consume,
    fair_queue::{FairQueue, HasTenant},
    handler::{BatchPermit, Handler, RefusalReason},
    held::REQUEST_WAITS,
    lane::{BACKLOG, Lane},
    limits::ACK_WAIT,
    source::Source,
};
