//! Purges decided commands from the stream, by age and while it is half full.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use super::{
    above_floor,
    stream::{self, STREAM, is_half_full},
};
use crate::infra::{Context, health::Duty};

/// Decided commands stay this long, for people who look into the stream, unless it fills.
const INSPECTION: Duration = Duration::from_secs(60 * 60);
/// Least time between two remembered floors.
const FLOOR_INTERVAL: Duration = Duration::from_secs(60);

/// The progress of the purge: the sequences up to which the stream was decided at some times.
#[derive(Default)]
pub(super) struct PurgeProgress {
    /// The creation time of the consumer. With another stream it is another consumer, and sequences
    /// begin again.
    consumer: String,
    /// Acknowledged floors, the oldest first.
    floors: VecDeque<(Instant, u64)>,
    /// The newest floor.
    floor: u64,
    /// The stream was purged up to here for being too full.
    purged: u64,
    /// Decided commands above the floor were looked for up to here.
    scanned: u64,
}

impl PurgeProgress {
    /// Purges commands that were decided an hour ago, and while the stream is half full those
    /// decided since, oldest first. A command that is not decided is never purged.
    ///
    /// # Errors
    /// If a server does not respond, or refuses.
    pub(super) async fn purge(&mut self, cx: &Context, duty: &Duty) -> anyhow::Result<()> {
        let nats = &cx.nats;
        let observe = |consumer: &str, floor| self.observe(Instant::now(), consumer, floor);
        stream::purge(nats, observe).await?;
        while is_half_full(nats).await? {
            let Some(next) = self.next() else {
                let after = self.scanned.max(self.floor);
                self.scanned = above_floor::delete(cx, duty, after).await?.unwrap_or(0);
                break;
            };
            tracing::debug!(next, "{STREAM} is half full: purges what is decided");
            stream::purge(nats, |consumer, _| (consumer == self.consumer).then_some(next)).await?;
        }
        Ok(())
    }

    /// Returns the oldest floor that the stream is not purged up to yet.
    fn next(&mut self) -> Option<u64> {
        let known = std::iter::from_fn(|| self.floors.pop_front()).map(|(_, floor)| floor);
        let next = known.chain([self.floor]).find(|floor| *floor > self.purged);
        self.purged = next.unwrap_or(self.purged);
        next
    }

    /// Remembers a floor, and returns the one that is as old as the time of inspection.
    fn observe(&mut self, now: Instant, consumer: &str, floor: u64) -> Option<u64> {
        if self.consumer != consumer {
            *self = Self { consumer: consumer.to_owned(), ..Self::default() };
        }
        self.floor = floor;
        if self.floors.back().is_none_or(|(at, _)| now.duration_since(*at) >= FLOOR_INTERVAL) {
            self.floors.push_back((now, floor));
        }
        let mut old = None;
        while self.floors.front().is_some_and(|(at, _)| now.duration_since(*at) >= INSPECTION) {
            old = self.floors.pop_front().map(|(_, floor)| floor);
        }
        old
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_that_were_decided_an_hour_ago_are_purged() {
        let start = Instant::now();
        let minute = |n: u64| start + Duration::from_secs(60 * n);
        let mut progress = PurgeProgress::default();
        let purged: Vec<_> =
            (0..=62).filter_map(|n| progress.observe(minute(n), "a", 10 * n)).collect();
        assert_eq!(purged, [0, 10, 20]);
        assert_eq!(progress.floors.len(), 60);
        // Too full: floor by floor, up to the last one and no further.
        let more: Vec<_> = std::iter::from_fn(|| progress.next()).collect();
        assert_eq!((more[0], more.len(), more.last()), (30, 60, Some(&620)));
        progress.observe(minute(62), "a", 625);
        assert_eq!((progress.next(), progress.next()), (Some(625), None));
        // A new stream: the floors of the old one say nothing about it.
        assert_eq!(progress.observe(minute(63), "b", 5), None);
        assert_eq!(progress.floors.len(), 1);
        assert_eq!((progress.next(), progress.next()), (Some(5), None));
    }
}
