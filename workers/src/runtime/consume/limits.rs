//! The limits that more than one part of the consuming loop keeps.

use std::time::Duration;

/// Most messages in one batch.
pub(super) const MAX_BATCH: usize = 256;
/// Most messages of a stream in hand: two batches at work, one being acknowledged and one waiting.
pub(super) const MAX_IN_HAND: usize = 4 * MAX_BATCH;
/// The shortest `ack_wait` in the topology, which a test of the conformance suite holds.
pub const ACK_WAIT: Duration = Duration::from_millis(1500);
/// Interval of the signs of life. Three of them fit into the time after which the server delivers a
/// message to somebody else.
pub(super) const HEARTBEAT: Duration = Duration::from_millis(ACK_WAIT.as_millis() as u64 / 3);
