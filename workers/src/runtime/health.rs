use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use brigade_contracts::WorkerName;

/// A worker that has not moved for this long is not ready. Chosen above the longest thing
/// that a worker waits for in one step, a statement of 5 s.
const STALLED: Duration = Duration::from_secs(8);

/// How a worker is, as `/readyz` tells it.
#[derive(Clone)]
pub struct Health {
    pub worker: WorkerName,
    state: Arc<Mutex<State>>,
}

struct State {
    moved: Option<Instant>,
    away: BTreeMap<&'static str, String>,
    violations: Vec<String>,
}

impl Health {
    #[must_use]
    pub fn new(worker: WorkerName) -> Self {
        let state = State { moved: None, away: BTreeMap::new(), violations: Vec::new() };
        Self { worker, state: Arc::new(Mutex::new(state)) }
    }

    /// The worker starts, perhaps again: nothing that it did before counts.
    pub fn starting(&self) {
        self.state().moved = None;
        self.back("worker");
    }

    /// The worker made progress, or waits for work in good order.
    pub fn moved(&self) {
        self.state().moved = Some(Instant::now());
    }

    /// A dependency cannot be reached. Logged once per outage.
    pub fn away(&self, dependency: &'static str, why: &str) {
        if self.state().away.insert(dependency, why.to_owned()).is_none() {
            tracing::warn!(worker = %self.worker, dependency, why, "dependency away");
        }
    }

    /// A dependency answers (again).
    pub fn back(&self, dependency: &'static str) {
        if self.state().away.remove(dependency).is_some() {
            tracing::info!(worker = %self.worker, dependency, "dependency back");
        }
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
    /// Why the worker is not ready.
    pub fn ready(&self) -> Result<(), String> {
        let state = self.state();
        if let Some(what) = state.violations.first() {
            return Err(format!("permission violation: {what}"));
        }
        if let Some((dependency, why)) = state.away.first_key_value() {
            return Err(format!("{dependency} is away: {why}"));
        }
        match state.moved {
            None => Err("starting".to_owned()),
            Some(moved) if moved.elapsed() > STALLED => {
                Err(format!("no progress for {} s", moved.elapsed().as_secs()))
            }
            Some(_) => Ok(()),
        }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
