use anyhow::Result;
use serde_json::{Value, json};

use super::{fleet::BenchFleet, machine, times::Times};

/// The measurements, and the machine they were taken on.
#[derive(Default)]
pub struct BenchReport {
    machine: Option<Value>,
    rows: Vec<ReportRow>,
}

struct ReportRow {
    name: String,
    figure: f64,
    unit: &'static str,
    ceiling: Option<f64>,
}

impl ReportRow {
    fn ratio(&self) -> Option<f64> {
        self.ceiling.map(|ceiling| self.figure / ceiling)
    }
}

impl BenchReport {
    /// Notes the machine and the servers, once.
    ///
    /// # Errors
    /// If the servers do not tell their versions.
    pub async fn header(&mut self, fleet: &BenchFleet) -> Result<()> {
        if self.machine.is_none() {
            let machine = machine::describe(fleet).await?;
            eprintln!("{machine:#}");
            self.machine = Some(machine);
        }
        Ok(())
    }

    /// A figure, and the raw ceiling it is a ratio to.
    pub fn row(&mut self, name: impl Into<String>, figure: f64, unit: &'static str, ceiling: f64) {
        self.rows.push(ReportRow { name: name.into(), figure, unit, ceiling: Some(ceiling) });
    }

    /// A figure that has no ceiling.
    pub fn figure(&mut self, name: impl Into<String>, figure: f64, unit: &'static str) {
        self.rows.push(ReportRow { name: name.into(), figure, unit, ceiling: None });
    }

    /// A row a percentile, in milliseconds.
    pub fn latency(&mut self, name: &str, path: &Times, ceiling: &Times) {
        for (label, quantile) in [("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999)] {
            self.row(format!("{name}, {label}"), path.at(quantile), "ms", ceiling.at(quantile));
        }
    }

    /// The table on stderr, and all of it as one JSON object on stdout if asked for.
    pub fn finish(&self, as_json: bool) {
        let or_dash = |value: Option<f64>| value.map_or("-".to_owned(), |v| format!("{v:.2}"));
        eprintln!("\n{:<58} {:>8} {:>12} {:>12} unit", "path", "ratio", "figure", "ceiling");
        for row in &self.rows {
            let (ratio, ceiling) = (or_dash(row.ratio()), or_dash(row.ceiling));
            let ReportRow { name, figure, unit, .. } = row;
            eprintln!("{name:<58} {ratio:>8} {figure:>12.2} {ceiling:>12} {unit}");
        }
        if as_json {
            let results = self.rows.iter().map(|row| {
                json!({ "name": row.name, "figure": row.figure, "unit": row.unit,
                        "ceiling": row.ceiling, "ratio": row.ratio() })
            });
            let results: Vec<Value> = results.collect();
            println!("{}", json!({ "machine": self.machine, "results": results }));
        }
    }
}
