use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, Interval, MissedTickBehavior, interval, sleep};

use super::{Fitness, Lease, RENEW};
use crate::infra::{
    Context,
    health::{Duty, POSTGRES},
};

/// The rounds of a duty that one instance does at a time, under a lease.
///
/// ```ignore
/// let mut rounds = LeasedRounds::new(&cx, "worker.duty", cx.health.duty("duty"));
/// while rounds.begin().await {
///     match round().await {
///         Ok(()) => rounds.succeeded(),
///         Err(error) => rounds.failed("nats", &error.to_string()),
///     }
/// }
/// ```
///
/// Each [`RENEW`] the lease is acquired or renewed. An instance that does not hold it is in good
/// order. One that holds it and fails for a reason of its own gives it back ([`Fitness`]), and so
/// does one whose connection to NATS is away.
pub struct LeasedRounds {
    cx: Context,
    lease: &'static str,
    duty: Arc<Duty>,
    period: Duration,
    /// Dependencies whose state this duty reports.
    reported: &'static [&'static str],
    /// The rounds do not wait for the lease until one has succeeded.
    unleased: bool,
    fitness: Fitness,
    /// The last round failed because of a dependency.
    failing: bool,
    tick: Interval,
    /// When the next round begins.
    due: Instant,
    /// When the lease was last acquired or renewed.
    renewed: Instant,
}

impl LeasedRounds {
    /// Begins the rounds of a duty, one each [`RENEW`].
    #[must_use]
    pub fn new(cx: &Context, lease: &'static str, duty: impl Into<Arc<Duty>>) -> Self {
        let now = Instant::now();
        let mut tick = interval(RENEW);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            cx: cx.clone(),
            lease,
            duty: duty.into(),
            period: Duration::ZERO,
            reported: &[],
            unleased: false,
            fitness: Fitness::default(),
            failing: false,
            tick,
            due: now,
            renewed: now,
        }
    }

    /// Sets the shortest time between the beginnings of two rounds.
    #[must_use]
    pub fn every(self, period: Duration) -> Self {
        Self { period, ..self }
    }

    /// Has the rounds report whether these dependencies can be reached. One duty of a worker
    /// reports a dependency: two would contradict each other.
    #[must_use]
    pub fn reporting(self, reported: &'static [&'static str]) -> Self {
        Self { reported, ..self }
    }

    /// Lets rounds begin without the lease until one has succeeded. Where a whole fleet was killed,
    /// a dead instance still holds it for [`LASTS`](super::LASTS).
    #[must_use]
    pub fn unleased_at_start(self) -> Self {
        Self { unleased: true, ..self }
    }

    /// Waits until the next round is due and this instance holds the lease. Returns false if the
    /// worker drains.
    pub async fn begin(&mut self) -> bool {
        loop {
            tokio::select! {
                _ = self.tick.tick() => {}
                () = self.cx.drain.cancelled() => return false,
            }
            match self.hold().await {
                Ok(held) if held || self.unleased => {
                    self.duty.went_round();
                    let now = Instant::now();
                    if now >= self.due {
                        self.due = now + self.period;
                        return true;
                    }
                    if !self.failing {
                        self.duty.moved();
                    }
                }
                Ok(_) => self.mark_healthy(),
                Err(error) => self.failed(POSTGRES, &error.to_string()),
            }
        }
    }

    /// Waits until the next round begins, as [`begin`](Self::begin) does. An instance for which none
    /// has begun for so long forgets what it showed: another one does the rounds.
    pub async fn begin_or_forget(&mut self, stale: Duration, forget: impl Fn()) -> bool {
        let begun = self.begin();
        tokio::pin!(begun);
        tokio::select! {
            begun = &mut begun => return begun,
            () = sleep(stale) => forget(),
        }
        begun.await
    }

    /// Lets no round begin before a time.
    pub fn not_before(&mut self, time: Instant) {
        self.due = self.due.max(time);
    }

    /// Ends a round that did what it should.
    pub fn succeeded(&mut self) {
        self.unleased = false;
        self.fitness.works();
        self.mark_healthy();
    }

    /// Ends a round in which nothing could be done although all dependencies answer, for instance
    /// because no command-handler does. Another instance may do better.
    pub fn blocked(&mut self) {
        self.fitness.fails();
        self.mark_healthy();
    }

    /// Ends a round that failed because of a dependency. Another instance may do better, unless
    /// that is Postgres, which is the same for all.
    pub fn failed(&mut self, dependency: &'static str, why: &str) {
        if dependency != POSTGRES {
            self.fitness.fails();
        }
        self.failing = true;
        self.duty.went_round();
        if self.reported.contains(&dependency) {
            self.cx.health.away(dependency, why);
        }
    }

    /// Renews the lease within a long round, if it is time. Returns false if it is lost.
    ///
    /// # Errors
    /// If Postgres does not answer in time, or refuses.
    pub async fn renew(&mut self) -> sqlx::Result<bool> {
        Ok(self.renewed.elapsed() < RENEW || self.hold().await?)
    }

    /// Returns the duty, to be marked within a long round.
    #[must_use]
    pub fn duty(&self) -> &Duty {
        &self.duty
    }

    async fn hold(&mut self) -> sqlx::Result<bool> {
        let now = Instant::now();
        let held = Lease::hold(&self.cx, self.lease, &self.fitness).await?;
        if held {
            self.renewed = now;
        }
        Ok(held)
    }

    fn mark_healthy(&mut self) {
        self.failing = false;
        for dependency in self.reported {
            self.cx.health.back(dependency);
        }
        self.duty.moved();
    }
}
