use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use hdrhistogram::Histogram;

/// Durations, noted from anywhere: 1 µs to a minute, to three digits.
#[derive(Clone)]
pub struct Times(Arc<Mutex<Histogram<u64>>>);

impl Times {
    /// # Panics
    /// Never: the bounds are right.
    pub fn new() -> Self {
        let histogram = Histogram::new_with_bounds(1, 60_000_000, 3).expect("bounds");
        Self(Arc::new(Mutex::new(histogram)))
    }

    pub fn record(&self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX).max(1);
        self.0.lock().unwrap_or_else(PoisonError::into_inner).saturating_record(micros);
    }

    /// Milliseconds.
    pub fn at(&self, quantile: f64) -> f64 {
        let histogram = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        histogram.value_at_quantile(quantile) as f64 / 1e3
    }
}
