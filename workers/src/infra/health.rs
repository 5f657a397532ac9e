use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use brigade_contracts::WorkerName;
use tokio::time::{Instant, sleep};

/// A worker one of whose duties has not moved for this long is not ready. Chosen above the longest
/// thing that most duties wait for in one step, a statement of 4 s.
const STALLED: Duration = Duration::from_secs(8);
/// A duty that has not gone round for this long hangs, and its worker is started again. Chosen
/// above the longest step of those that do not say otherwise: some statements and answers of 4 s
/// each.
pub const HANGS: Duration = Duration::from_secs(20);
/// The time between two checks for duties that hang.
const LOOK: Duration = Duration::from_millis(500);
/// A worker that hangs for this much longer could not be started again: its process should be
/// killed. A start takes milliseconds, and a drain that does not end is cut off before this.
const LOST: Duration = Duration::from_secs(20);
/// A dependency that has failed for so long, without success in between, is away.
const FAILS: Duration = Duration::from_secs(2);
/// The name of the dependency that the leases need.
pub const POSTGRES: &str = "postgres";
/// Most reasons that are logged of one outage.
const REASONS: u32 = 5;
/// An outage that lasts is logged again after this time.
const LASTS: Duration = Duration::from_secs(60);

/// The health of a worker, as `/readyz` and `/livez` show it.
///
/// A worker has **duties**: what it does for as long as it runs, each in a loop of its own. A duty
/// *goes round* whatever comes of it, and *moves* where that was in good order. So one that hangs
/// is distinguished from one whose servers are away: only the first one is mended by a new start.
#[derive(Clone)]
pub struct Health {
    pub worker: WorkerName,
    state: Arc<Mutex<HealthState>>,
}

struct HealthState {
    /// When the worker was started; `None` while it is not meant to run.
    started: Option<Instant>,
    duties: Vec<Arc<Progress>>,
    away: BTreeMap<&'static str, Outage>,
    /// The first failure of each dependency since it last succeeded.
    failing: BTreeMap<&'static str, Instant>,
    violations: Vec<String>,
}

/// A dependency that cannot be reached.
#[derive(Default)]
struct Outage {
    why: String,
    /// The number of reasons that were logged.
    logged: u32,
    /// When it was logged last.
    logged_at: Option<Instant>,
}

/// The progress of a duty.
struct Progress {
    name: &'static str,
    hangs: Duration,
    at: Mutex<DutyTimes>,
}

#[derive(Clone, Copy)]
struct DutyTimes {
    round: Instant,
    moved: Option<Instant>,
}

/// One duty of a worker, until it is dropped.
pub struct Duty {
    health: Health,
    progress: Arc<Progress>,
}

impl Duty {
    /// It went round and made progress, or waits for work in good order.
    pub fn moved(&self) {
        let now = Instant::now();
        *self.progress.at() = DutyTimes { round: now, moved: Some(now) };
    }

    /// It went round, with whatever result.
    pub fn went_round(&self) {
        self.progress.at().round = Instant::now();
    }
}

impl Drop for Duty {
    fn drop(&mut self) {
        self.health.state().duties.retain(|duty| !Arc::ptr_eq(duty, &self.progress));
    }
}

impl Progress {
    fn at(&self) -> MutexGuard<'_, DutyTimes> {
        self.at.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Health {
    #[must_use]
    pub fn new(worker: WorkerName) -> Self {
        let state = HealthState {
            started: None,
            duties: Vec::new(),
            away: BTreeMap::new(),
            failing: BTreeMap::new(),
            violations: Vec::new(),
        };
        Self { worker, state: Arc::new(Mutex::new(state)) }
    }

    /// The worker starts, perhaps again: nothing that it did before counts.
    pub fn starting(&self) {
        let mut state = self.state();
        state.started = Some(Instant::now());
        state.duties.clear();
        state.failing.clear();
        drop(state);
        self.back("worker");
    }

    /// Records that the worker drains, or has: its duties end one after the other, and nobody waits
    /// for them. Others limit the time that it takes.
    pub fn draining(&self) {
        self.state().started = None;
    }

    /// Begins a duty, which has to go round at least every [`HANGS`].
    #[must_use]
    pub fn duty(&self, name: &'static str) -> Duty {
        self.duty_within(name, HANGS)
    }

    /// Begins a duty, one step of which may take so long.
    #[must_use]
    pub fn duty_within(&self, name: &'static str, hangs: Duration) -> Duty {
        let at = Mutex::new(DutyTimes { round: Instant::now(), moved: None });
        let progress = Arc::new(Progress { name, hangs, at });
        self.state().duties.push(progress.clone());
        Duty { health: self.clone(), progress }
    }

    /// A dependency cannot be reached. Logged when an outage begins and when its reason changes, a
    /// few times: a server that was restarted may come back with a certificate that has expired. One
    /// that lasts is logged once a minute.
    pub fn away(&self, dependency: &'static str, why: &str) {
        let mut state = self.state();
        let outage = state.away.entry(dependency).or_default();
        let is_new = outage.why != why && outage.logged < REASONS;
        if is_new || outage.logged_at.is_some_and(|at| at.elapsed() >= LASTS) {
            outage.logged += u32::from(is_new);
            outage.logged_at = Some(Instant::now());
            tracing::warn!(worker = %self.worker, dependency, why, "dependency away");
        }
        why.clone_into(&mut outage.why);
    }

    /// A dependency failed, and is tried again soon. It is away when it goes on failing: that one
    /// answer is late makes no worker unready.
    pub fn fails(&self, dependency: &'static str, why: &str) {
        let since = *self.state().failing.entry(dependency).or_insert_with(Instant::now);
        if since.elapsed() >= FAILS {
            self.away(dependency, why);
        }
    }

    /// A dependency answers (again).
    pub fn back(&self, dependency: &'static str) {
        let mut state = self.state();
        state.failing.remove(dependency);
        if state.away.remove(dependency).is_some() {
            tracing::info!(worker = %self.worker, dependency, "dependency back");
        }
    }

    /// Returns the dependencies that are away.
    #[must_use]
    pub fn dependencies_away(&self) -> Vec<&'static str> {
        self.state().away.keys().copied().collect()
    }

    /// The server refused something that this worker's permissions do not cover. That never
    /// mends itself, so the worker stays unready.
    pub fn violation(&self, what: &str) {
        tracing::error!(worker = %self.worker, what, "permission violation");
        let mut state = self.state();
        // Bounded: the first few tell what is wrong.
        if state.violations.len() < 10 {
            state.violations.push(what.to_owned());
        }
    }

    #[must_use]
    pub fn violations(&self) -> Vec<String> {
        self.state().violations.clone()
    }

    /// # Errors
    /// If the worker is not ready, with the reason.
    pub fn ready(&self) -> Result<(), String> {
        let state = self.state();
        if let Some(what) = state.violations.first() {
            return Err(format!("permission violation: {what}"));
        }
        if let Some((dependency, outage)) = state.away.first_key_value() {
            return Err(format!("{dependency} is away: {}", outage.why));
        }
        if state.duties.is_empty() {
            return Err("starting".to_owned());
        }
        for duty in &state.duties {
            match duty.at().moved {
                None => return Err(format!("starting: {}", duty.name)),
                Some(moved) if moved.elapsed() > STALLED => {
                    let seconds = moved.elapsed().as_secs();
                    return Err(format!("no progress of {} for {seconds} s", duty.name));
                }
                Some(_) => {}
            }
        }
        Ok(())
    }

    /// Returns true if the worker runs, or is on its way back. That a server is away does not make
    /// it otherwise.
    ///
    /// # Errors
    /// If a duty hangs although the worker should have been restarted because of it long since.
    pub fn alive(&self) -> Result<(), String> {
        self.hangs_for(LOST).map_or(Ok(()), Err)
    }

    /// Waits until a duty hangs, and returns which.
    pub async fn hangs(&self) -> String {
        loop {
            if let Some(why) = self.hangs_for(Duration::ZERO) {
                return why;
            }
            sleep(LOOK).await;
        }
    }

    /// Returns the duty that has hung for this much longer than it may.
    fn hangs_for(&self, longer: Duration) -> Option<String> {
        let state = self.state();
        let started = state.started?;
        if state.duties.is_empty() && started.elapsed() > HANGS + longer {
            return Some(format!("does not start for {} s", started.elapsed().as_secs()));
        }
        state.duties.iter().find_map(|duty| {
            let round = duty.at().round.elapsed();
            let hangs = round > duty.hangs + longer;
            hangs.then(|| format!("{} hangs for {} s", duty.name, round.as_secs()))
        })
    }

    fn state(&self) -> MutexGuard<'_, HealthState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use tokio::time::advance;

    use super::*;

    fn started() -> Health {
        let health = Health::new(WorkerName::CacheVerifier);
        health.starting();
        health
    }

    #[tokio::test(start_paused = true)]
    async fn a_worker_is_ready_when_all_of_its_duties_move() {
        let health = started();
        assert_eq!(health.ready(), Err("starting".to_owned()));
        let (checkpoints, audit) = (health.duty("checkpoints"), health.duty("audit"));
        checkpoints.moved();
        assert_eq!(health.ready(), Err("starting: audit".to_owned()));
        audit.moved();
        assert_eq!(health.ready(), Ok(()));
        // One that moves does not speak for the other.
        advance(STALLED + Duration::from_secs(1)).await;
        checkpoints.moved();
        audit.went_round();
        assert_eq!(health.ready(), Err("no progress of audit for 9 s".to_owned()));
        audit.moved();
        assert_eq!(health.ready(), Ok(()));
        health.away("postgres", "why");
        assert_eq!(health.ready(), Err("postgres is away: why".to_owned()));
        health.back("postgres");
        // What has ended is missed by nobody.
        drop(audit);
        advance(STALLED).await;
        checkpoints.moved();
        assert_eq!(health.ready(), Ok(()));
    }

    #[tokio::test]
    async fn the_last_reason_is_reported_and_a_few_are_logged() {
        let health = started();
        for n in 0..100 {
            health.away("nats", &format!("reason {n}"));
            health.away("nats", &format!("reason {n}"));
        }
        assert_eq!(health.ready(), Err("nats is away: reason 99".to_owned()));
        assert_eq!(health.state().away["nats"].logged, REASONS);
    }

    #[tokio::test(start_paused = true)]
    async fn an_outage_that_lasts_is_logged_once_a_minute() {
        let health = started();
        let mut logged = BTreeSet::new();
        for _ in 0..150 {
            health.away("nats", "why");
            logged.extend(health.state().away["nats"].logged_at);
            advance(Duration::from_secs(1)).await;
        }
        assert_eq!(logged.len(), 3, "at 0, 60 and 120 s");
    }

    #[tokio::test(start_paused = true)]
    async fn one_late_answer_makes_no_worker_unready() {
        let health = started();
        let duty = health.duty("batches");
        duty.moved();
        for _ in 0..3 {
            health.fails("attempts", "timed out");
            advance(FAILS).await;
            assert_eq!(health.ready(), Ok(()), "it failed once");
            health.back("attempts");
        }
        health.fails("attempts", "timed out");
        advance(FAILS / 2).await;
        health.fails("attempts", "timed out");
        assert_eq!(health.ready(), Ok(()));
        advance(FAILS / 2).await;
        health.fails("attempts", "timed out");
        assert_eq!(health.ready(), Err("attempts is away: timed out".to_owned()));
        health.back("attempts");
        assert_eq!(health.ready(), Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_duty_that_hangs_is_distinguished_from_one_whose_servers_are_away() {
        let health = started();
        let (checkpoints, slow) =
            (health.duty("checkpoints"), health.duty_within("batches", HANGS * 10));
        let until = Instant::now() + HANGS * 5;
        while Instant::now() < until {
            // Nothing moves, but it goes round.
            checkpoints.went_round();
            advance(LOOK).await;
            assert_eq!((health.hangs_for(Duration::ZERO), health.alive()), (None, Ok(())));
        }
        assert!(health.ready().is_err());
        let began = Instant::now();
        let why = health.hangs().await;
        assert_eq!(why, "checkpoints hangs for 20 s");
        assert!(began.elapsed() >= HANGS - LOOK && began.elapsed() < HANGS + LOOK * 3);
        drop(slow);
    }

    #[tokio::test(start_paused = true)]
    async fn a_worker_that_cannot_be_started_again_is_not_alive() {
        let health = started();
        let checkpoints = health.duty("checkpoints");
        advance(HANGS + LOST).await;
        assert_eq!(health.alive(), Ok(()), "it may be starting again");
        advance(LOOK).await;
        assert_eq!(health.alive(), Err("checkpoints hangs for 40 s".to_owned()));
        // A new start begins to count again, whatever is left of the one before it.
        health.starting();
        assert_eq!(health.alive(), Ok(()));
        let again = health.duty("checkpoints");
        drop(checkpoints);
        again.moved();
        assert_eq!(health.ready(), Ok(()));
        drop(again);
        advance(HANGS + LOST + LOOK).await;
        assert_eq!(health.alive(), Err("does not start for 40 s".to_owned()));
        health.draining();
        assert_eq!(health.alive(), Ok(()));
    }
}
