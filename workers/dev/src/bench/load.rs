//! Generators of load.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::Result;
use futures::future::try_join_all;
use tokio::{sync::mpsc, task::JoinSet};

use super::times::Times;

/// `lanes` at once, each starting its next operation when the last one is done, for `length` after
/// a warm-up of a fifth of that. Returns operations a second.
///
/// # Errors
/// The first one of an operation.
pub async fn closed<F, T>(lanes: usize, length: Duration, operation: F) -> Result<f64>
where
    F: Fn(u64) -> T + Send + Sync + Clone + 'static,
    T: Future<Output = Result<()>> + Send + 'static,
{
    let number = Arc::new(AtomicU64::new(0));
    let from = Instant::now() + length / 5;
    let until = from + length;
    let lanes = (0..lanes).map(|_| {
        let (operation, number) = (operation.clone(), number.clone());
        tokio::spawn(async move {
            let mut counted = 0_u64;
            while Instant::now() < until {
                operation(number.fetch_add(1, Ordering::Relaxed)).await?;
                let now = Instant::now();
                counted += u64::from(now >= from && now < until);
            }
            anyhow::Ok(counted)
        })
    });
    let mut counted = 0;
    for lane in try_join_all(lanes).await? {
        counted += lane?;
    }
    Ok(counted as f64 / length.as_secs_f64())
}

/// When an operation was to begin.
#[derive(Clone, Copy)]
pub struct ScheduledSend {
    planned: Instant,
    /// Not in the warm-up.
    counted: bool,
}

impl ScheduledSend {
    /// Notes that something is done now that should have begun at this moment.
    pub fn done(self, times: &Times) {
        if self.counted {
            times.record(self.planned.elapsed());
        }
    }
}

/// Operations planned at a constant rate, started when their moment comes whether or not earlier
/// ones are done. The time of each is counted from its planned moment, so that a stall is counted
/// for all who would have come in it (no coordinated omission).
///
/// # Errors
/// The first one of an operation.
pub async fn open<F, T>(rate: f64, length: Duration, operation: F) -> Result<()>
where
    F: Fn(u64, ScheduledSend) -> T,
    T: Future<Output = Result<()>> + Send + 'static,
{
    let mut tasks = JoinSet::new();
    let mut moments = paced(rate, length);
    let mut number = 0;
    while let Some(moment) = moments.recv().await {
        tasks.spawn(operation(number, moment));
        number += 1;
        while let Some(done) = tasks.try_join_next() {
            done??;
        }
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    Ok(())
}

/// Moments at a constant rate, each told when it has come.
#[expect(clippy::disallowed_methods, reason = "tokio's timer is late by up to 1 ms, this by 0.1")]
fn paced(rate: f64, length: Duration) -> mpsc::UnboundedReceiver<ScheduledSend> {
    let (told, moments) = mpsc::unbounded_channel();
    tokio::task::spawn_blocking(move || {
        let start = Instant::now();
        let warm = start + length / 5;
        for n in 0_u64.. {
            let planned = start + Duration::from_secs_f64(n as f64 / rate);
            std::thread::sleep(planned.saturating_duration_since(Instant::now()));
            let over = planned >= warm + length;
            if over || told.send(ScheduledSend { planned, counted: planned >= warm }).is_err() {
                break;
            }
        }
    });
    moments
}
