use anyhow::Result;
use hdrhistogram::Histogram;
use serde_json::{Value, json};

use super::stage::Stage;

/// The measurements, and the machine they were taken on.
pub struct Report {
    machine: Value,
    results: Vec<Value>,
}

impl Report {
    /// # Errors
    /// Where the servers do not tell their versions.
    pub async fn new(stage: &Stage) -> Result<Self> {
        let postgres: String = sqlx::query_scalar("select split_part(version(), ' ', 2)")
            .fetch_one(&stage.sql)
            .await?;
        let machine = json!({
            "cores": std::thread::available_parallelism().map_or(0, usize::from),
            "nats_server": stage.operator.client().server_info().version,
            "postgres": postgres,
            "brigade": env!("CARGO_PKG_VERSION"),
            "optimised": !cfg!(debug_assertions),
        });
        eprintln!("{machine}");
        eprintln!(
            "{:<44} {:>12} {:<10} {:>12} {:>8}",
            "path", "figure", "unit", "ceiling", "ratio"
        );
        Ok(Self { machine, results: Vec::new() })
    }

    /// One row: a figure, and the raw ceiling it is a ratio to.
    pub fn row(&mut self, name: &str, figure: f64, unit: &str, ceiling: f64) {
        let ratio = figure / ceiling;
        eprintln!("{name:<44} {figure:>12.1} {unit:<10} {ceiling:>12.1} {ratio:>8.2}");
        self.results.push(json!({
            "name": name, "figure": figure, "unit": unit, "ceiling": ceiling, "ratio": ratio,
        }));
    }

    /// A row a percentile, in milliseconds.
    pub fn latency(&mut self, name: &str, path: &Histogram<u64>, ceiling: &Histogram<u64>) {
        for (label, quantile) in [("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999)] {
            let at =
                |histogram: &Histogram<u64>| histogram.value_at_quantile(quantile) as f64 / 1e3;
            self.row(&format!("{name} {label}"), at(path), "ms", at(ceiling));
        }
    }

    pub fn finish(self, as_json: bool) {
        if as_json {
            println!("{}", json!({ "machine": self.machine, "results": self.results }));
        }
    }
}

/// Microseconds, 1 to a minute, to three digits.
pub fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000, 3).expect("the bounds are right")
}
