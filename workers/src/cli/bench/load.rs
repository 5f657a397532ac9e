//! Generators of load.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::Result;
use futures::future::try_join_all;
use hdrhistogram::Histogram;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep_until},
};

use super::report::histogram;

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

/// Operations planned at a constant rate, started when their moment comes whether or not earlier
/// ones are done. The time of each is counted from its planned moment, so that a stall is counted
/// for all who would have come in it (no coordinated omission).
///
/// # Errors
/// The first one of an operation.
pub async fn open<F, T>(rate: f64, length: Duration, operation: F) -> Result<Histogram<u64>>
where
    F: Fn(u64) -> T,
    T: Future<Output = Result<()>> + Send + 'static,
{
    let start = Instant::now();
    let warm = start + length / 5;
    let end = warm + length;
    let mut tasks = JoinSet::new();
    let mut times = histogram();
    for n in 0_u64.. {
        let planned = start + Duration::from_secs_f64(n as f64 / rate);
        if planned >= end {
            break;
        }
        sleep_until(planned).await;
        let operation = operation(n);
        tasks.spawn(async move {
            operation.await?;
            anyhow::Ok((planned >= warm).then(|| planned.elapsed()))
        });
        while let Some(done) = tasks.try_join_next() {
            record(&mut times, done??);
        }
    }
    while let Some(done) = tasks.join_next().await {
        record(&mut times, done??);
    }
    Ok(times)
}

fn record(times: &mut Histogram<u64>, took: Option<Duration>) {
    if let Some(took) = took {
        times.saturating_record(u64::try_from(took.as_micros()).unwrap_or(u64::MAX).max(1));
    }
}
