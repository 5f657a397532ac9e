use std::time::Duration;

/// What a worker says of a message. What follows from it is decided in one place only:
/// [`settlement`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Everything that the message causes is durable.
    Done,
    /// This message failed; it may succeed later.
    Retry(String),
    /// A dependency is away: the message stays in hand, and the try does not count.
    Away(String),
    /// Somebody else has locked what it needs, which is named: the message waits aside, where
    /// nobody waits for it, and the try does not count.
    Held(String),
    /// It can never succeed.
    Dead(String),
}

/// How a message is settled with the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Settlement {
    Ack,
    /// The delay goes into the negative acknowledgement: without one the server delivers again
    /// at once, whatever the consumer's `backoff` says.
    Nak(Duration),
    /// Copy to the dead letters, then terminate.
    Bury(String),
    /// Nothing yet: it is tried again from hand.
    Keep,
    /// Nothing yet: it is tried again when what is named here is free.
    Aside(String),
}

/// Verdict and number of deliveries (1 for the first) → settlement. Deliveries only set the delay:
/// how often a message may fail is counted by its tries alone.
#[must_use]
pub fn settlement(verdict: Verdict, deliveries: i64) -> Settlement {
    match verdict {
        Verdict::Done => Settlement::Ack,
        Verdict::Away(_) => Settlement::Keep,
        Verdict::Held(key) => Settlement::Aside(key),
        Verdict::Dead(reason) => Settlement::Bury(reason),
        Verdict::Retry(_) => Settlement::Nak(backoff(deliveries)),
    }
}

/// 100 ms, doubling with each delivery, 10 s at most.
fn backoff(deliveries: i64) -> Duration {
    let doublings = u32::try_from(deliveries.clamp(1, 8) - 1).unwrap_or(0);
    Duration::from_millis(100 << doublings).min(Duration::from_secs(10))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_verdict_has_its_settlement() {
        let why = || "why".to_owned();
        let nak = |millis| Settlement::Nak(Duration::from_millis(millis));
        for (verdict, deliveries, expected) in [
            (Verdict::Done, 1, Settlement::Ack),
            (Verdict::Done, 99, Settlement::Ack),
            (Verdict::Away(why()), 1, Settlement::Keep),
            (Verdict::Away(why()), 99, Settlement::Keep),
            (Verdict::Held(why()), 1, Settlement::Aside(why())),
            (Verdict::Held(why()), 99, Settlement::Aside(why())),
            (Verdict::Dead(why()), 1, Settlement::Bury(why())),
            (Verdict::Retry(why()), 1, nak(100)),
            (Verdict::Retry(why()), 2, nak(200)),
            (Verdict::Retry(why()), 4, nak(800)),
            (Verdict::Retry(why()), 99, nak(10_000)),
        ] {
            assert_eq!(
                settlement(verdict.clone(), deliveries),
                expected,
                "{verdict:?} {deliveries}"
            );
        }
    }
}
