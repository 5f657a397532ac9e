//! Long polls: queries that wait until their answer changes.

use std::{future::Future, ops::ControlFlow, sync::Arc, time::Duration};

use brigade_contracts::Token;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::{reply::QueryReply, wakeups::WakeupSource};
use crate::workers::edge::{
    admission::AdmissionControl,
    metrics::{EdgeMetrics, GaugeGuard},
};

/// The most queries that wait, a quarter of them of one tenant.
const MAX_WAITING: usize = 4_096;
/// A push may be lost, so a query that waits is also evaluated again this often.
const REFRESH: Duration = Duration::from_secs(1);

/// Bounds and wakes the queries that wait.
#[derive(Clone)]
pub struct LongPolls {
    admission: AdmissionControl,
    wakeups: WakeupSource,
    drain: CancellationToken,
    metrics: Arc<EdgeMetrics>,
}

impl LongPolls {
    /// Creates a bound on waiting queries. All of them end at `drain`.
    #[must_use]
    pub fn new(wakeups: WakeupSource, drain: CancellationToken, metrics: Arc<EdgeMetrics>) -> Self {
        Self { admission: AdmissionControl::new(MAX_WAITING), wakeups, drain, metrics }
    }

    /// Evaluates a query until it says that its result is final (`Break`), `wait` is over, or edge
    /// drains; then returns the last result. A push on `wake_subject` is only a reason to evaluate
    /// again: the subscription is there before the evaluation that follows it, so nothing is missed
    /// in between.
    ///
    /// # Errors
    /// `503 busy` or `429 too_many` if too many wait already.
    pub async fn poll_until<T, F>(
        &self,
        tenant: &Token,
        wait: Duration,
        wake_subject: String,
        evaluate: impl Fn() -> F,
    ) -> Result<T, QueryReply>
    where
        F: Future<Output = ControlFlow<T, T>>,
    {
        let until = Instant::now() + wait;
        let mut present = match evaluate().await {
            ControlFlow::Break(last) => return Ok(last),
            ControlFlow::Continue(present) if wait.is_zero() => return Ok(present),
            ControlFlow::Continue(present) => present,
        };
        let _permit = self.admission.try_admit(tenant.as_str())?;
        let mut wakeups = self.wakeups.subscribe(wake_subject).await.map_err(|error| {
            tracing::warn!(%error, "a query cannot wait: its subscription failed");
            QueryReply::busy()
        })?;
        let _counted = GaugeGuard::new(&self.metrics.queries_waiting);
        while !self.drain.is_cancelled() {
            present = match evaluate().await {
                ControlFlow::Break(last) => return Ok(last),
                ControlFlow::Continue(present) if Instant::now() >= until => return Ok(present),
                ControlFlow::Continue(present) => present,
            };
            tokio::select! {
                () = sleep_until(until) => {}
                () = sleep(REFRESH) => {}
                () = self.drain.cancelled() => {}
                Some(()) = wakeups.next() => {}
            }
        }
        Ok(present)
    }
}
