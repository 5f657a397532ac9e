//! Decides from losses what has to be healed. Pure: nothing is read or written here.

use brigade_contracts::{Aggregate, key::Bucket};
use time::{Duration, OffsetDateTime};

use super::super::{
    checkpoints::{ObservedStream, StreamCheckpoint, StreamLoss},
    heads::{all_kinds, home_bucket},
};

/// A crash takes the last moment; clocks, commits that took long and what is in flight at a
/// checkpoint are well within a minute.
const CHECKPOINT_MARGIN: Duration = Duration::minutes(1);
/// Retention of the stream `EVENTS`.
const EVENTS_RETENTION: Duration = Duration::days(7);

/// A set of aggregates that have to be projected once more.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum HealScope {
    /// The aggregates whose parts are in this bucket and have not expired.
    Unexpired(Bucket),
    /// The orders whose rows in `active_orders` have not expired.
    ListedOrders,
    /// The aggregates that changed since this time.
    ChangedSince(OffsetDateTime),
}

impl HealScope {
    /// Returns the kinds that are read whole, page by page.
    pub fn kinds(self) -> impl Iterator<Item = Aggregate> {
        let bucket = match self {
            Self::Unexpired(bucket) => Some(bucket),
            Self::ListedOrders | Self::ChangedSince(_) => None,
        };
        all_kinds().filter(move |kind| bucket == Some(home_bucket(*kind)))
    }
}

/// Everything that the losses of one round have to bring back.
#[derive(Debug, Default)]
pub struct HealPlan {
    absent_streams: Vec<String>,
    changed_since: Option<OffsetDateTime>,
    listed_orders: bool,
    views: bool,
    locks: bool,
    users: bool,
    versions: bool,
    projected_parts: bool,
    events: Option<EventReplay>,
}

/// Which events are published once more.
#[derive(Debug, PartialEq)]
pub struct EventReplay {
    pub since: OffsetDateTime,
    /// The server remembers message ids across a purge of the stream: for two minutes it would take
    /// an event for a duplicate of a message that is gone.
    pub under_new_ids: bool,
}

impl HealPlan {
    pub fn is_empty(&self) -> bool {
        self.absent_streams.is_empty() && self.scopes().next().is_none() && self.events.is_none()
    }

    /// Adds what the loss of a stream, compared with its last checkpoint, has to bring back.
    pub fn add_loss(
        &mut self,
        stream: &str,
        loss: StreamLoss,
        observed: &ObservedStream,
        checkpoint: Option<&StreamCheckpoint>,
        now: OffsetDateTime,
    ) {
        if loss == StreamLoss::Absent {
            self.absent_streams.push(stream.to_owned());
        }
        let since = checkpoint.map_or(now, |checkpoint| checkpoint.taken_at) - CHECKPOINT_MARGIN;
        if stream == "EVENTS" {
            self.events = Some(EventReplay::after(loss, observed, since, now));
        }
        if stream == "TIMERS" {
            // command-handler writes a lock's timer whenever it projects the lock.
            self.locks = true;
        }
        let bucket = Bucket::ALL.into_iter().find(|bucket| bucket.stream() == stream);
        if let Some(bucket) = bucket {
            self.add_bucket(bucket, loss, since);
        }
    }

    fn add_bucket(&mut self, bucket: Bucket, loss: StreamLoss, since: OffsetDateTime) {
        match bucket {
            Bucket::Attempts => return,
            _ if !loss.is_whole() => {
                let earliest = self.changed_since.map_or(since, |earlier| earlier.min(since));
                self.changed_since = Some(earliest);
            }
            Bucket::ActiveOrders => self.listed_orders = true,
            Bucket::CartLocks => self.locks = true,
            Bucket::UserState => self.users = true,
            Bucket::Views => self.views = true,
            Bucket::Versions => (self.views, self.users) = (true, true),
        }
        self.versions |= bucket == Bucket::Versions;
        self.projected_parts |=
            matches!(bucket, Bucket::Views | Bucket::ActiveOrders | Bucket::UserState);
    }

    /// Returns the sets of aggregates that go into the projection backlog, in this order.
    pub fn scopes(&self) -> impl Iterator<Item = HealScope> {
        let views = self.views.then_some(HealScope::Unexpired(Bucket::Views));
        let listed = (self.listed_orders && !self.views).then_some(HealScope::ListedOrders);
        let locks = self.locks.then_some(HealScope::Unexpired(Bucket::CartLocks));
        let users = self.users.then_some(HealScope::Unexpired(Bucket::UserState));
        let changed = self.changed_since.map(HealScope::ChangedSince);
        [views, listed, locks, users, changed].into_iter().flatten()
    }

    /// Returns true if projectors may find nothing in the bucket `versions`.
    pub fn lost_versions(&self) -> bool {
        self.versions
    }

    /// Returns true if parts that projectors write may be gone.
    pub fn lost_projected_parts(&self) -> bool {
        self.projected_parts
    }

    pub fn event_replay(&self) -> Option<&EventReplay> {
        self.events.as_ref()
    }

    pub fn is_absent(&self, stream: &str) -> bool {
        self.absent_streams.iter().any(|absent| absent == stream)
    }
}

impl EventReplay {
    fn after(
        loss: StreamLoss,
        observed: &ObservedStream,
        since: OffsetDateTime,
        now: OffsetDateTime,
    ) -> Self {
        if !loss.is_whole() {
            return Self { since, under_new_ids: false };
        }
        let under_new_ids = match observed {
            ObservedStream::Absent => false,
            ObservedStream::Present(found) => loss == StreamLoss::Purged || found.first_seq > 1,
        };
        Self { since: now - EVENTS_RETENTION, under_new_ids }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: OffsetDateTime = OffsetDateTime::UNIX_EPOCH;

    fn plan(losses: &[(&str, StreamLoss)]) -> HealPlan {
        let mut plan = HealPlan::default();
        for (stream, loss) in losses {
            plan.add_loss(stream, *loss, &ObservedStream::Absent, None, NOW);
        }
        plan
    }

    fn scopes(losses: &[(&str, StreamLoss)]) -> Vec<HealScope> {
        plan(losses).scopes().collect()
    }

    #[test]
    fn each_bucket_brings_back_the_aggregates_that_it_holds() {
        use HealScope::{ListedOrders, Unexpired};
        let (views, locks, users) =
            (Unexpired(Bucket::Views), Unexpired(Bucket::CartLocks), Unexpired(Bucket::UserState));
        let purged = |stream| scopes(&[(stream, StreamLoss::Purged)]);
        assert_eq!(purged("KV_views"), [views]);
        assert_eq!(purged("KV_versions"), [views, users]);
        assert_eq!(purged("KV_active_orders"), [ListedOrders]);
        assert_eq!(purged("KV_cart_locks"), [locks]);
        assert_eq!(purged("TIMERS"), [locks]);
        assert_eq!(purged("KV_user_state"), [users]);
        assert_eq!(purged("KV_attempts"), []);
        assert_eq!(purged("COMMANDS"), []);
        let both = [("KV_active_orders", StreamLoss::Purged), ("KV_views", StreamLoss::Purged)];
        assert_eq!(scopes(&both), [views], "which covers the listed orders");
    }

    #[test]
    fn every_kind_is_brought_back_with_its_home_bucket() {
        for kind in all_kinds() {
            let homes = [Bucket::Views, Bucket::CartLocks, Bucket::UserState];
            let holds = |bucket: &Bucket| HealScope::Unexpired(*bucket).kinds().any(|k| k == kind);
            assert_eq!(homes.iter().filter(|bucket| holds(bucket)).count(), 1, "{kind}");
        }
    }

    #[test]
    fn a_loss_of_the_newest_brings_back_what_changed_since() {
        let losses =
            [("KV_views", StreamLoss::Behind), ("KV_cart_locks", StreamLoss::ServerRestarted)];
        assert_eq!(scopes(&losses), [HealScope::ChangedSince(NOW - CHECKPOINT_MARGIN)]);
    }

    #[test]
    fn events_are_replayed_as_far_back_as_the_loss_reaches() {
        let replay = |loss| plan(&[("EVENTS", loss)]).events.unwrap();
        assert_eq!(replay(StreamLoss::Behind).since, NOW - CHECKPOINT_MARGIN);
        let absent = EventReplay { since: NOW - EVENTS_RETENTION, under_new_ids: false };
        assert_eq!(replay(StreamLoss::Absent), absent);
        assert!(plan(&[("EVENTS", StreamLoss::Absent)]).is_absent("EVENTS"));
        assert!(plan(&[]).is_empty());
        assert!(plan(&[("KV_attempts", StreamLoss::Recreated)]).is_empty());
        assert!(!plan(&[("COMMANDS", StreamLoss::Absent)]).is_empty());
    }
}
