//! Queries that wait for something to happen.

use std::{future::Future, ops::ControlFlow, time::Duration};

use brigade_contracts::Token;
use futures::StreamExt;
use prometheus::IntGauge;
use tokio::time::{Instant, sleep, sleep_until};

use super::{Edge, reply::Reply};

/// A push may be lost, so whoever waits also asks again this often.
const ASK_AGAIN: Duration = Duration::from_secs(1);

impl Edge {
    /// Asks until the answer is final, or the time is over, or edge drains; then what was last
    /// answered has to do. A message on `wake_on` is only a reason to ask again: the subscription
    /// is there before the question that it follows, so nothing is missed in between.
    ///
    /// # Errors
    /// `503 busy` or `429 too_many` where too many wait already.
    pub async fn ask_until<T, F>(
        &self,
        tenant: &Token,
        wait: Duration,
        wake_on: String,
        ask: impl Fn() -> F,
    ) -> Result<T, Reply>
    where
        F: Future<Output = ControlFlow<T, T>>,
    {
        let until = Instant::now() + wait;
        let mut present = match ask().await {
            ControlFlow::Break(last) => return Ok(last),
            ControlFlow::Continue(present) if wait.is_zero() => return Ok(present),
            ControlFlow::Continue(present) => present,
        };
        let _place = self.waiting.take(tenant.as_str())?;
        let mut wakes = self.cx.nats.client.subscribe(wake_on).await.map_err(|error| {
            tracing::warn!(%error, "a query cannot wait");
            Reply::busy()
        })?;
        // Only what the server knows of can wake: from here on nothing is missed.
        self.cx.nats.round_trip().await;
        let _counted = Counted::new(&self.cx.metrics.queries_waiting);
        while !self.cx.drain.is_cancelled() {
            present = match ask().await {
                ControlFlow::Break(last) => return Ok(last),
                ControlFlow::Continue(present) if Instant::now() >= until => return Ok(present),
                ControlFlow::Continue(present) => present,
            };
            tokio::select! {
                () = sleep_until(until) => {}
                () = sleep(ASK_AGAIN) => {}
                () = self.cx.drain.cancelled() => {}
                Some(_) = wakes.next() => {}
            }
        }
        Ok(present)
    }
}

/// Is counted for as long as it is there.
pub struct Counted(IntGauge);

impl Counted {
    #[must_use]
    pub fn new(gauge: &IntGauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}
