//! I-14 of what operators did: a dead letter is replayed once, and recorded once.

use std::collections::HashMap;

use super::{ChaosFinding, Evidence};
use crate::chaos::{
    history::{Operation, Way, by_command},
    workload::OperatorRun,
};

/// The replays of the letters of one command, as the archive has them.
#[derive(Clone, Copy, Debug, Default)]
pub struct ArchivedReplays {
    pub letters: usize,
    /// The letters that took so long that somebody may have been interrupted, and another one has
    /// done it again, as it is meant.
    pub maybe_repeated: usize,
    /// Copies of the command that are in the stream.
    pub copies: usize,
}

/// Returns the letters that were replayed twice, and those that are replayed and not recorded.
#[must_use]
pub fn check(
    runs: &[OperatorRun],
    operations: &[Operation],
    evidence: &Evidence,
) -> Vec<ChaosFinding> {
    let mut found = told_twice(runs, evidence);
    let commands = by_command(operations);
    for ((tenant, id), replays) in &evidence.replays {
        let Some(attempts) = commands.get(&(tenant.as_str(), id.as_str())) else { continue };
        // The archive may be what a failover has lost.
        if attempts.iter().any(|attempt| evidence.eras.ended_after(attempt)) {
            continue;
        }
        let sent = attempts.iter().filter(|attempt| attempt.way == Way::Durable).count();
        if replays.copies > sent + replays.letters + replays.maybe_repeated {
            let what = format!("{tenant}, command {id}: sent {sent} times, and {replays:?}");
            found.push(ChaosFinding::new("I-14", what, attempts.to_vec()));
        }
    }
    found
}

/// Returns the letters of which two operators were told that they have dealt with them, and those
/// of which one was, and the archive has nothing.
fn told_twice(runs: &[OperatorRun], evidence: &Evidence) -> Vec<ChaosFinding> {
    let mut dealt_with: HashMap<&str, &OperatorRun> = HashMap::new();
    let mut found = Vec::new();
    for run in runs {
        for number in &run.done {
            // Later letters get the same numbers where their stream was lost.
            let is_known = !evidence.are_letters_lost_after(run.begun);
            if is_known && !evidence.dealt_with.contains(&(number.clone(), run.action)) {
                let what = format!("letter {number} was {}, and is not recorded", run.action);
                found.push(ChaosFinding::new("I-14", what, []));
            }
            let earlier = dealt_with.insert(number, run);
            if let Some(earlier) = earlier
                && !evidence.are_letters_lost_after(earlier.begun)
            {
                let what = format!(
                    "letter {number} was {} from {} to {}, and {} again from {} to {} µs",
                    earlier.action, earlier.begun, earlier.ended, run.action, run.begun, run.ended
                );
                found.push(ChaosFinding::new("I-14", what, []));
            }
        }
    }
    found
}
