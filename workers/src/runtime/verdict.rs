use std::time::Duration;

use super::metrics::VerdictLabel;

/// The judgement of a worker on a message. [`acknowledgement`] alone decides what follows from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Everything that the message causes is durable.
    Done,
    /// This message failed; it may succeed later.
    Retry(String),
    /// A dependency is away: the message stays in hand, and the try does not count.
    Away(String),
    /// The named thing is locked by somebody else: the message is set aside, where nobody waits
    /// for it, and the try does not count.
    Held(String),
    /// It can never succeed.
    Dead(String),
}

impl Verdict {
    /// Returns the value of the label `verdict` in metrics.
    #[must_use]
    pub fn label(&self) -> VerdictLabel {
        match self {
            Self::Done => VerdictLabel::Done,
            Self::Retry(_) => VerdictLabel::Retry,
            Self::Away(_) => VerdictLabel::Away,
            Self::Held(_) => VerdictLabel::Held,
            Self::Dead(_) => VerdictLabel::Dead,
        }
    }
}

/// The answer to the server about a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Acknowledgement {
    Ack,
    /// The delay goes into the negative acknowledgement: without one the server delivers again
    /// at once, whatever the consumer's `backoff` says.
    Nak(Duration),
    /// A copy to the dead letters, then a termination.
    DeadLetter(String),
    /// Nothing yet: the message is tried again from hand.
    Keep,
    /// Nothing yet: the message is tried again when the named thing is free.
    Hold(String),
}

/// Returns the acknowledgement that follows from a verdict and the number of deliveries (1 for the
/// first). Deliveries only set the delay: only tries count towards the number of failures that a
/// message may have.
#[must_use]
pub fn acknowledgement(verdict: Verdict, deliveries: i64) -> Acknowledgement {
    match verdict {
        Verdict::Done => Acknowledgement::Ack,
        Verdict::Away(_) => Acknowledgement::Keep,
        Verdict::Held(name) => Acknowledgement::Hold(name),
        Verdict::Dead(reason) => Acknowledgement::DeadLetter(reason),
        Verdict::Retry(_) => Acknowledgement::Nak(backoff(deliveries)),
    }
}

/// Returns 100 ms, doubled with each delivery, 10 s at most.
fn backoff(deliveries: i64) -> Duration {
    let doublings = u32::try_from(deliveries.clamp(1, 8) - 1).unwrap_or(0);
    Duration::from_millis(100 << doublings).min(Duration::from_secs(10))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_verdict_has_its_acknowledgement() {
        let why = || "why".to_owned();
        let nak = |millis| Acknowledgement::Nak(Duration::from_millis(millis));
        for (verdict, deliveries, expected) in [
            (Verdict::Done, 1, Acknowledgement::Ack),
            (Verdict::Done, 99, Acknowledgement::Ack),
            (Verdict::Away(why()), 1, Acknowledgement::Keep),
            (Verdict::Away(why()), 99, Acknowledgement::Keep),
            (Verdict::Held(why()), 1, Acknowledgement::Hold(why())),
            (Verdict::Held(why()), 99, Acknowledgement::Hold(why())),
            (Verdict::Dead(why()), 1, Acknowledgement::DeadLetter(why())),
            (Verdict::Retry(why()), 1, nak(100)),
            (Verdict::Retry(why()), 2, nak(200)),
            (Verdict::Retry(why()), 4, nak(800)),
            (Verdict::Retry(why()), 99, nak(10_000)),
        ] {
            assert_eq!(
                acknowledgement(verdict.clone(), deliveries),
                expected,
                "{verdict:?} {deliveries}"
            );
        }
    }
}
