//! A circuit breaker: whoever answers commands does not wait again and again for a bucket that
//! takes no writes.
//!
//! ```text
//! Closed ── a write failed ──► Open ── PROBE_INTERVAL is over ──► HalfOpen, for one write
//!   ▲                           ▲                                    │        │
//!   │                           └──────────── it failed ─────────────┘        │
//!   └──────────────────────────── it was acknowledged ────────────────────────┘
//! ```

use std::time::{Duration, Instant};

/// Time from a failed write until the circuit is half-open.
pub const PROBE_INTERVAL: Duration = Duration::from_millis(200);

/// The state of the circuit for one write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Circuit {
    /// The write is made.
    Closed,
    /// The write is not made.
    Open,
    /// The write is made as a probe. It decides whether the circuit is closed again.
    HalfOpen,
}

/// Remembers whether writes succeed.
#[derive(Debug, Default)]
pub struct CircuitBreaker {
    /// The time from which the circuit is half-open; `None` while it is closed.
    open_until: Option<Instant>,
}

impl CircuitBreaker {
    /// Returns the state for a write that begins now. Once it is half-open for one write it is open
    /// for the next ones, so that only one probe is under way.
    pub fn begin(&mut self, now: Instant) -> Circuit {
        match self.open_until {
            None => Circuit::Closed,
            Some(until) if until > now => Circuit::Open,
            Some(_) => {
                self.open_until = Some(now + PROBE_INTERVAL);
                Circuit::HalfOpen
            }
        }
    }

    /// Returns whether no write was acknowledged since one failed.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.open_until.is_some()
    }

    /// Closes the circuit after an acknowledged write. Returns whether it was open.
    pub fn succeeded(&mut self) -> bool {
        self.open_until.take().is_some()
    }

    /// Opens the circuit after a failed write. Returns whether it was closed.
    pub fn failed(&mut self, now: Instant) -> bool {
        self.open_until.replace(now + PROBE_INTERVAL).is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Copy, Debug)]
    enum Input {
        Begin(Circuit),
        Fail { opens: bool },
        Succeed { closes: bool },
    }

    #[test]
    fn each_input_has_its_state() {
        use Input::{Begin, Fail, Succeed};
        let (mut breaker, start) = (CircuitBreaker::default(), Instant::now());
        for (millis, input) in [
            (0, Begin(Circuit::Closed)),
            (0, Succeed { closes: false }),
            (10, Begin(Circuit::Closed)),
            (10, Fail { opens: true }),
            (209, Begin(Circuit::Open)),
            (210, Begin(Circuit::HalfOpen)),
            // One probe at a time.
            (210, Begin(Circuit::Open)),
            (300, Fail { opens: false }),
            (499, Begin(Circuit::Open)),
            (500, Begin(Circuit::HalfOpen)),
            // A probe that says nothing about writes leaves the circuit open.
            (700, Begin(Circuit::HalfOpen)),
            (710, Succeed { closes: true }),
            (710, Begin(Circuit::Closed)),
        ] {
            let now = start + Duration::from_millis(millis);
            match input {
                Begin(expected) => assert_eq!(breaker.begin(now), expected, "{millis}"),
                Fail { opens } => assert_eq!(breaker.failed(now), opens, "{millis}"),
                Succeed { closes } => assert_eq!(breaker.succeeded(), closes, "{millis}"),
            }
        }
        assert!(!breaker.is_open());
    }
}
