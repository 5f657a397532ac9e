//! Decides from losses what has to be healed. Pure: nothing is read or written here.

use brigade_contracts::{Token, key::Bucket};
use time::{Duration, OffsetDateTime};

use super::{
    super::{
        checkpoints::{ObservedStream, StreamCheckpoint, StreamLoss},
        heads::{all_kinds, home_bucket},
    },
    step::{EventRange, HealScope, HealStep},
};

/// A crash takes the last moment; clocks, commits that took long and what is in flight at a
/// checkpoint are well within a minute.
const CHECKPOINT_MARGIN: Duration = Duration::minutes(1);
/// Retention of the stream `EVENTS`.
const EVENTS_RETENTION: Duration = Duration::days(7);

/// Everything that the losses of one round have to bring back.
#[derive(Debug, Default)]
pub struct HealPlan {
    /// The loss, in words.
    losses: Vec<String>,
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
    /// Returns what was lost, in words.
    pub fn reason(&self) -> String {
        self.losses.join(", ")
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
        self.losses.push(format!("{stream} {}", loss.as_str()));
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

    /// Returns the time since which all changes are healed.
    pub fn changed_since(&self) -> Option<OffsetDateTime> {
        self.changed_since
    }

    /// Returns the events that are published once more.
    pub fn event_replay(&self) -> Option<&EventReplay> {
        self.events.as_ref()
    }

    /// Returns the steps by which what was lost comes back, in their order. The ranges are those of
    /// the events since [`Self::changed_since`] and since [`EventReplay::since`].
    pub fn steps(&self, changed: Option<EventRange>, replay: Option<EventRange>) -> Vec<HealStep> {
        let mut scopes = self.scopes(None);
        scopes.extend(changed.map(|events| HealScope::Changed { events }));
        let project = |scope: &HealScope| HealStep::Project { scope: scope.clone() };
        let mut steps: Vec<HealStep> = scopes.iter().map(project).collect();
        if self.versions {
            // Projectors that find nothing at a key ask `versions`, and a message may only fail so
            // often.
            steps.push(HealStep::AwaitProjections);
        }
        if let (Some(events), Some(replay)) = (replay, &self.events) {
            steps.push(HealStep::Replay { events, under_new_ids: replay.under_new_ids });
        }
        if self.projected_parts {
            steps.extend(republish(&scopes));
        }
        steps
    }

    /// Returns the steps by which buckets are emptied and written anew, of one tenant alone if it is
    /// named, until all of it is done.
    pub fn rebuild(buckets: &[Bucket], tenant: Option<&Token>) -> Vec<HealStep> {
        let mut plan = Self::default();
        let now = OffsetDateTime::UNIX_EPOCH;
        for bucket in buckets {
            plan.add_bucket(*bucket, StreamLoss::Purged, now);
        }
        let delete =
            |bucket: &Bucket| HealStep::DeleteKeys { bucket: *bucket, tenant: tenant.cloned() };
        let scopes = plan.scopes(tenant);
        let mut steps: Vec<HealStep> = buckets.iter().map(delete).collect();
        steps.extend(scopes.iter().map(|scope| HealStep::Project { scope: scope.clone() }));
        steps.push(HealStep::AwaitProjections);
        if plan.projected_parts {
            steps.extend(republish(&scopes));
            steps.push(HealStep::AwaitPublications);
        }
        steps
    }

    /// Returns the sets of aggregates whose buckets were lost as a whole.
    fn scopes(&self, tenant: Option<&Token>) -> Vec<HealScope> {
        let homes = [
            (self.views, Bucket::Views),
            (self.locks, Bucket::CartLocks),
            (self.users, Bucket::UserState),
        ];
        let tenant = || tenant.cloned();
        let is_lost = |kind| homes.contains(&(true, home_bucket(kind)));
        let kinds = all_kinds().filter(|kind| is_lost(*kind));
        let mut scopes: Vec<HealScope> =
            kinds.map(|kind| HealScope::Unexpired { kind, tenant: tenant() }).collect();
        if self.listed_orders && !self.views {
            scopes.push(HealScope::ListedOrders { tenant: tenant() });
        }
        scopes
    }
}

fn republish(scopes: &[HealScope]) -> impl Iterator<Item = HealStep> {
    let scopes = scopes.iter().filter(|scope| scope.has_projected_parts());
    scopes.map(|scope| HealStep::Republish { scope: scope.clone() })
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
            ObservedStream::Present(found) => {
                matches!(loss, StreamLoss::Purged | StreamLoss::Holed) || found.first_seq > 1
            }
        };
        Self { since: now - EVENTS_RETENTION, under_new_ids }
    }
}

#[cfg(test)]
mod tests;
