//! The checkers: what the history says against SQL, streams and KV at rest.

mod eras;
mod evidence;
pub mod letters;
mod lists;
pub mod locks;
pub mod money;
pub mod outcomes;
mod projections;
pub mod reads;
mod rest;
#[cfg(test)]
mod tests;

use serde::Serialize;

pub use self::{eras::Eras, evidence::Evidence, rest::at_rest};
use super::history::Operation;

/// Operations that a finding shows, at most.
const SHOWN: usize = 12;

/// Something that must not be.
#[derive(Clone, Debug, Serialize)]
pub struct ChaosFinding {
    /// `I-<n>` of `docs/reference/guarantees.md`.
    pub invariant: String,
    pub what: String,
    /// The operations that show it, with their times.
    pub operations: Vec<String>,
}

impl ChaosFinding {
    pub fn new<'a>(
        invariant: &str,
        what: impl Into<String>,
        operations: impl IntoIterator<Item = &'a Operation>,
    ) -> Self {
        let mut operations: Vec<&Operation> = operations.into_iter().collect();
        operations.sort_by_key(|operation| operation.begun);
        operations.truncate(SHOWN);
        let operations = operations.into_iter().map(Operation::describe).collect();
        Self { invariant: invariant.to_owned(), what: what.into(), operations }
    }

    /// A line that begins with the number of its invariant.
    #[must_use]
    pub fn of_line(line: &str) -> Self {
        let (invariant, what) = line.split_once(':').unwrap_or(("?", line));
        Self::new(invariant, what.trim(), [])
    }
}
