use super::limits::MAX_BATCH;
use crate::runtime::Delivery;

/// Bytes of payloads after which no further message is added to a batch: decoding and hashing them
/// takes a core for milliseconds.
pub(super) const MAX_BATCH_BYTES: usize = 512 * 1024;
/// Most messages of a batch of floods while few messages of others are served: their batches share
/// the processors and the servers with it.
pub(super) const MAX_FLOOD_BATCH: usize = 32;
/// The same in bytes.
const MAX_FLOOD_BATCH_BYTES: usize = 256 * 1024;

/// The room that a batch has left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Room {
    messages: usize,
    bytes: usize,
}

impl Room {
    /// Returns the room of a batch; beside `others`, so many messages of other tenants in a batch
    /// of their own, that of the floods. It grows with theirs: who is many does not wait for few.
    pub(super) fn of_batch(others: Option<usize>) -> Self {
        match others {
            None => Self { messages: MAX_BATCH, bytes: MAX_BATCH_BYTES },
            Some(others) => Self {
                messages: others.clamp(MAX_FLOOD_BATCH, MAX_BATCH),
                bytes: MAX_FLOOD_BATCH_BYTES,
            },
        }
    }

    /// Returns an equal share of it.
    pub(super) fn share(self, shares: usize) -> Self {
        Self { messages: self.messages.div_ceil(shares), bytes: self.bytes.div_ceil(shares) }
    }

    /// Takes what was used of a share.
    pub(super) fn take_share(&mut self, share: Self, left: Self) {
        self.messages -= share.messages - left.messages;
        self.bytes -= share.bytes - left.bytes;
    }

    /// Takes the room of a message. Returns whether there was any: the last message may be larger.
    pub(super) fn take(&mut self, delivery: &Delivery) -> bool {
        if self.messages == 0 || self.bytes == 0 {
            return false;
        }
        self.messages -= 1;
        self.bytes = self.bytes.saturating_sub(delivery.payload().len());
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_has_little_room_beside_few_messages_of_others_and_all_of_it_beside_none() {
        let messages = |others| Room::of_batch(others).messages;
        assert_eq!(messages(None), MAX_BATCH);
        for (others, expected) in [(0, 32), (1, 32), (32, 32), (100, 100), (999, MAX_BATCH)] {
            assert_eq!(messages(Some(others)), expected, "{others}");
        }
        assert_eq!(Room::of_batch(Some(999)).bytes, MAX_FLOOD_BATCH_BYTES);
        assert!(Room::of_batch(None).bytes > MAX_FLOOD_BATCH_BYTES);
    }
}
