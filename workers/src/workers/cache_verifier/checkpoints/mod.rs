//! Checkpoints of streams: what a stream looked like when all was well, and what says that it has
//! lost something since.

mod observe;
mod store;

use time::OffsetDateTime;

pub use self::{
    observe::observe,
    store::{delete_old, load_latest, save},
};

/// Allowance for clocks that differ.
const CLOCK_SLACK: time::Duration = time::Duration::minutes(1);

/// The state of a stream at one time.
#[derive(Clone, Debug, PartialEq)]
pub struct StreamCheckpoint {
    /// On the database's clock, before the stream was looked at.
    pub taken_at: OffsetDateTime,
    pub created: String,
    pub server_id: String,
    pub first_seq: u64,
    pub last_seq: u64,
    pub messages: u64,
    /// Time of the first message.
    pub first_at: OffsetDateTime,
    /// Time of the last message.
    pub last_at: OffsetDateTime,
    /// The sequence of the canary of a bucket.
    pub canary: Option<u64>,
    /// Messages of the stream do not expire before this age.
    pub max_age: Option<time::Duration>,
}

impl StreamCheckpoint {
    /// Returns how many sequences between the first and the last message have none. In a stream that
    /// forgets by age alone it grows only by a loss. (One is overlooked in the very second in which
    /// as many holes of an earlier loss go by age.)
    fn holes(&self) -> u64 {
        let span = (self.last_seq + 1).saturating_sub(self.first_seq);
        if self.messages == 0 { 0 } else { span.saturating_sub(self.messages) }
    }
}

/// A stream as the server describes it now.
#[derive(Clone, Debug)]
pub enum ObservedStream {
    Absent,
    Present(StreamCheckpoint),
}

/// A difference from the last checkpoint by which messages may be gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamLoss {
    /// There is no such stream.
    Absent,
    /// It was deleted and created since.
    Recreated,
    /// Everything that stood there is gone.
    Purged,
    /// Messages between its first and its last one are gone, though it forgets by age alone.
    Holed,
    /// Its last sequence is below that of the checkpoint.
    Behind,
    /// A suspicion: its server was started again, and a crash takes what was not synced.
    ServerRestarted,
}

impl StreamLoss {
    pub const ALL: [Self; 6] = [
        Self::Absent,
        Self::Recreated,
        Self::Purged,
        Self::Holed,
        Self::Behind,
        Self::ServerRestarted,
    ];

    /// Returns the label in metrics and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Absent => "missing",
            Self::Recreated => "made_again",
            Self::Purged => "purged",
            Self::Holed => "holed",
            Self::Behind => "behind",
            Self::ServerRestarted => "server_started",
        }
    }

    /// Returns true if it is a loss to the stream of this name. From `TIMERS` the server itself
    /// takes what has fired, which looks like a purge, and it is synced to disk; a lock whose timer
    /// is gone all the same is found by cart-lock-expiry. From `COMMANDS` goes what is decided,
    /// from `DLQ` what is settled, often all of it at once. `KV_attempts` has no canary: one
    /// message that fails alone overwrites all of it each time, and what is gone from it nobody
    /// brings back.
    pub fn counts_for(self, stream: &str) -> bool {
        match stream {
            _ if self == Self::Holed => stream == "EVENTS",
            "TIMERS" => !matches!(self, Self::Purged | Self::ServerRestarted),
            "COMMANDS" | "DLQ" => self != Self::Purged,
            "KV_attempts" => matches!(self, Self::Absent | Self::Recreated),
            _ => true,
        }
    }

    /// Returns true if nothing that stood there can be relied on; else only the newest may be gone.
    /// Which messages a hole has taken nobody can tell: one may stand there far later than it was
    /// committed, and an event may stand there twice.
    pub fn is_whole(self) -> bool {
        matches!(self, Self::Absent | Self::Recreated | Self::Purged | Self::Holed)
    }
}

/// Compares a stream with its last checkpoint. Without one only its absence is a loss.
pub fn detect_loss(
    checkpoint: Option<&StreamCheckpoint>,
    observed: &ObservedStream,
    one_server: bool,
) -> Option<StreamLoss> {
    let found = match observed {
        ObservedStream::Absent => return Some(StreamLoss::Absent),
        ObservedStream::Present(found) => found,
    };
    let checkpoint = checkpoint?;
    if found.created != checkpoint.created {
        Some(StreamLoss::Recreated)
    } else if is_emptied(checkpoint, found) || is_cut(checkpoint, found) {
        Some(StreamLoss::Purged)
    } else if found.max_age.is_some() && found.holes() > checkpoint.holes() {
        Some(StreamLoss::Holed)
    } else if found.last_seq < checkpoint.last_seq {
        Some(StreamLoss::Behind)
    } else if one_server && found.server_id != checkpoint.server_id {
        Some(StreamLoss::ServerRestarted)
    } else {
        None
    }
}

/// Returns true if everything that stood in a stream is gone. A bucket is judged by its canary: all
/// of its keys may have been overwritten, or have expired. A canary with another sequence was put
/// there after a purge.
fn is_emptied(checkpoint: &StreamCheckpoint, found: &StreamCheckpoint) -> bool {
    match checkpoint.canary {
        Some(canary) => found.canary != Some(canary),
        None => {
            checkpoint.messages > 0
                && found.first_seq > checkpoint.last_seq
                && !has_expired(checkpoint.last_at, found)
        }
    }
}

/// Returns true if the beginning of a stream that forgets by age alone is gone before its time.
fn is_cut(checkpoint: &StreamCheckpoint, found: &StreamCheckpoint) -> bool {
    found.max_age.is_some()
        && checkpoint.messages > 0
        && found.first_seq > checkpoint.first_seq
        && !has_expired(checkpoint.first_at, found)
}

/// Returns true if a message of that time may be gone by its age.
fn has_expired(at: OffsetDateTime, found: &StreamCheckpoint) -> bool {
    found.max_age.is_some_and(|age| at + age <= found.taken_at + CLOCK_SLACK)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checkpoint() -> StreamCheckpoint {
        StreamCheckpoint {
            taken_at: OffsetDateTime::UNIX_EPOCH + time::Duration::hours(1),
            created: "then".to_owned(),
            server_id: "server".to_owned(),
            first_seq: 10,
            last_seq: 20,
            messages: 5,
            first_at: OffsetDateTime::UNIX_EPOCH,
            last_at: OffsetDateTime::UNIX_EPOCH + time::Duration::minutes(30),
            canary: None,
            max_age: None,
        }
    }

    #[test]
    fn each_loss_is_detected_from_the_last_checkpoint() {
        let found = |change: fn(&mut StreamCheckpoint)| {
            let mut found = checkpoint();
            found.last_seq = 25;
            change(&mut found);
            detect_loss(Some(&checkpoint()), &ObservedStream::Present(found), true)
        };
        assert_eq!(found(|_| {}), None);
        assert_eq!(found(|m| m.first_seq = 20), None, "keys that were overwritten");
        assert_eq!(found(|m| m.first_seq = 21), Some(StreamLoss::Purged));
        assert_eq!(found(|m| m.created = "later".into()), Some(StreamLoss::Recreated));
        assert_eq!(found(|m| m.last_seq = 19), Some(StreamLoss::Behind));
        assert_eq!(found(|m| m.server_id = "other".into()), Some(StreamLoss::ServerRestarted));
        let other = StreamCheckpoint { server_id: "other".into(), ..checkpoint() };
        assert_eq!(
            detect_loss(Some(&checkpoint()), &ObservedStream::Present(other), false),
            None,
            "in a cluster"
        );
        assert_eq!(detect_loss(None, &ObservedStream::Absent, true), Some(StreamLoss::Absent));
        assert_eq!(detect_loss(None, &ObservedStream::Present(checkpoint()), true), None);
        let empty = StreamCheckpoint { messages: 0, ..checkpoint() };
        let first = StreamCheckpoint { first_seq: 21, ..checkpoint() };
        assert_eq!(
            detect_loss(Some(&empty), &ObservedStream::Present(first), true),
            None,
            "nothing to lose"
        );
    }

    #[test]
    fn a_bucket_is_purged_when_its_canary_is_gone_and_not_when_its_keys_were_overwritten() {
        let loss = |canary| {
            let before = StreamCheckpoint { canary: Some(3), ..checkpoint() };
            let found = StreamCheckpoint { first_seq: 25, last_seq: 25, canary, ..checkpoint() };
            detect_loss(Some(&before), &ObservedStream::Present(found), true)
        };
        assert_eq!(loss(Some(3)), None, "every other key was overwritten");
        assert_eq!(loss(Some(25)), Some(StreamLoss::Purged), "it was put there again");
        assert_eq!(loss(None), Some(StreamLoss::Purged));
    }

    #[test]
    fn what_is_done_and_gone_is_no_loss() {
        let streams = ["EVENTS", "TIMERS", "COMMANDS", "DLQ", "KV_attempts"];
        let counts = |loss: StreamLoss| streams.map(|stream| loss.counts_for(stream));
        assert_eq!(counts(StreamLoss::Holed), [true, false, false, false, false]);
        assert_eq!(counts(StreamLoss::Absent), [true; 5]);
        assert_eq!(counts(StreamLoss::Recreated), [true; 5]);
        assert_eq!(counts(StreamLoss::Behind), [true, true, true, true, false]);
        assert_eq!(counts(StreamLoss::Purged), [true, false, false, false, false]);
        assert_eq!(counts(StreamLoss::ServerRestarted), [true, false, true, true, false]);
    }

    #[test]
    fn what_is_gone_by_age_is_no_loss() {
        let loss = |first_seq, minutes| {
            let max_age = Some(time::Duration::minutes(minutes));
            let found = StreamCheckpoint { first_seq, last_seq: 20, max_age, ..checkpoint() };
            detect_loss(Some(&checkpoint()), &ObservedStream::Present(found), true)
        };
        assert_eq!(loss(15, 60), None, "the first ones, after an hour");
        assert_eq!(loss(15, 120), Some(StreamLoss::Purged));
        assert_eq!(loss(21, 30), None, "all of them: the last one is half an hour old");
        assert_eq!(loss(21, 60), Some(StreamLoss::Purged));
    }

    #[test]
    fn a_hole_in_the_middle_is_a_loss_of_a_stream_that_forgets_by_age() {
        let before = StreamCheckpoint { messages: 11, ..checkpoint() };
        assert_eq!((before.holes(), checkpoint().holes()), (0, 6));
        let loss = |before: &StreamCheckpoint, messages, first_seq, max_age| {
            let found =
                StreamCheckpoint { first_seq, last_seq: 30, messages, max_age, ..checkpoint() };
            detect_loss(Some(before), &ObservedStream::Present(found), true)
        };
        let day = Some(time::Duration::days(1));
        assert_eq!(loss(&before, 21, 10, day), None, "ten more");
        assert_eq!(loss(&before, 20, 10, day), Some(StreamLoss::Holed));
        assert_eq!(loss(&before, 20, 10, None), None, "where keys are overwritten");
        let holed = StreamCheckpoint { messages: 8, ..checkpoint() };
        assert_eq!(loss(&holed, 18, 10, day), None, "the same three as before");
        assert_eq!(loss(&holed, 17, 10, day), Some(StreamLoss::Holed));
        let expired = Some(time::Duration::minutes(30));
        assert_eq!(loss(&holed, 16, 13, expired), None, "two of the three went by age");
        assert_eq!(StreamCheckpoint { messages: 0, first_seq: 21, ..checkpoint() }.holes(), 0);
    }
}
