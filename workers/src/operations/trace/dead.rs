//! Dead letters of a command.

use anyhow::Result;
use brigade_contracts::{Timestamp, header, subject};

use super::{Passed, Station, Step, Trace, Tracer};
use crate::{
    operations::dead_letters::{DeadLetters, Filter, Letter},
    runtime::delivery::pairs,
};

impl Tracer {
    /// Returns a step for each dead letter of a command, whether somebody replayed or dropped it or
    /// nobody did.
    pub(super) async fn dead(&self, tenant: &str, command_id: &str) -> Result<Vec<Step>> {
        let letters = self.letters(Some(tenant)).await?;
        let of_command =
            letters.iter().filter(|letter| command_of(letter).as_deref() == Some(command_id));
        Ok(of_command.map(step).collect())
    }

    /// Returns the ways of commands of which only dead letters are left.
    pub(super) async fn only_dead(&self, command_id: &str, tenant: &str) -> Result<Vec<Trace>> {
        let letters = self.letters((tenant != "*").then_some(tenant)).await?;
        let mut traces: Vec<Trace> = Vec::new();
        for letter in letters.iter().filter(|l| command_of(l).as_deref() == Some(command_id)) {
            let tenant = subject::tenant_of(&letter.subject).unwrap_or_default().to_owned();
            let trace = match traces.iter().position(|trace| trace.tenant == tenant) {
                Some(place) => &mut traces[place],
                None => {
                    let what = "COMMANDS does not hold it any more";
                    let steps = vec![
                        Step::unknown(Station::Received, what),
                        Step::new(Station::Decided, Passed::NotYet, "it became a dead letter"),
                    ];
                    let command_id = command_id.to_owned();
                    traces.push(Trace { tenant, command_id, steps });
                    let last = traces.len() - 1;
                    &mut traces[last]
                }
            };
            trace.steps.push(step(letter));
        }
        Ok(traces)
    }

    async fn letters(&self, tenant: Option<&str>) -> Result<Vec<Letter>> {
        let desk = DeadLetters::open(self.js.clone(), self.postgres.clone()).await?;
        let tenant = tenant.map(ToOwned::to_owned);
        desk.list(&Filter { tenant, all: true, ..Filter::default() }).await
    }
}

fn command_of(letter: &Letter) -> Option<String> {
    let id = header::command_id(pairs(Some(&letter.headers))).ok()?;
    Some(id.to_string())
}

fn step(letter: &Letter) -> Step {
    let what = match &letter.action {
        Some(action) => {
            format!("dead letter {}: {}; {action} by an operator", letter.number, letter.reason)
        }
        None => format!(
            "dead letter {}: {}; `brigade dlq show {}`",
            letter.number, letter.reason, letter.number
        ),
    };
    let step = Step::new(Station::Dead, Passed::Yes, what).by(Some(letter.worker.clone()));
    match Timestamp::parse(&letter.at) {
        Ok(at) => step.at(at),
        Err(_) => step,
    }
}
