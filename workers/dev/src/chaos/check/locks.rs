//! I-7 from the answers alone: who was given a lock, in which order, and what was done with it.
//!
//! Each change of an owner's lock has a version, which the effects of the outcome tell
//! (`lock.<owner>@<version>`), and each lock a fencing token. So the order of the changes is known,
//! and no search is needed: it has to agree with the clock, and within it tokens have to grow, a
//! lock has to end before the next one begins, and no old token may be of any use.

use std::collections::{BTreeMap, HashMap};

use brigade_contracts::EraVersion;

use super::{ChaosFinding, Evidence, reads::parse};
use crate::chaos::history::{Micros, Operation};

/// A change of a lock by one command, whoever repeated it.
#[derive(Clone, Copy)]
struct LockChange<'a> {
    by: &'a Operation,
    version: EraVersion,
    /// When it was first sent, and first answered.
    begun: Micros,
    ended: Micros,
}

impl LockChange<'_> {
    /// Returns the token of a lock that this command acquired or joined.
    fn given(&self) -> Option<i64> {
        let is_given = matches!(&*self.by.verb, "lock" | "initiate");
        self.by.outcome()?.token.filter(|_| is_given)
    }

    fn is_lock(&self) -> bool {
        &*self.by.verb == "lock"
    }
}

/// Changes of a lock by Command-Id.
type LockChanges<'a> = HashMap<&'a str, LockChange<'a>>;

/// Returns what was done with locks that cannot have been.
#[must_use]
pub fn check(operations: &[Operation], evidence: &Evidence) -> Vec<ChaosFinding> {
    let mut owners: BTreeMap<(&str, &str), LockChanges<'_>> = BTreeMap::new();
    let mut first_sent: HashMap<(&str, &str), Micros> = HashMap::new();
    for by in operations {
        let Some(id) = by.command_id.as_deref() else { continue };
        let first = first_sent.entry((&by.tenant, id)).or_insert(by.begun);
        *first = by.begun.min(*first);
    }
    for by in operations {
        let (Some(outcome), Some(id)) = (by.outcome(), by.command_id.as_deref()) else { continue };
        let Some(era) = evidence.era_of(by).filter(|_| !evidence.is_lost(by)) else { continue };
        for (key, version) in outcome.effects.iter().filter_map(|effect| parse(effect)) {
            let Some(owner) = key.strip_prefix("lock.") else { continue };
            let begun = first_sent.get(&(&*by.tenant, id)).copied().unwrap_or(by.begun);
            let version = era.at(version);
            let change = LockChange { by, version, begun, ended: by.ended };
            let known = owners.entry((&by.tenant, owner)).or_default().entry(id).or_insert(change);
            known.ended = known.ended.min(by.ended);
        }
    }
    owners
        .into_iter()
        .flat_map(|((tenant, owner), changes)| of_owner(tenant, owner, changes))
        .collect()
}

fn of_owner(tenant: &str, owner: &str, changes: LockChanges<'_>) -> Vec<ChaosFinding> {
    let mut changes: Vec<LockChange<'_>> = changes.into_values().collect();
    changes.sort_by_key(|change| (change.version, change.begun));
    let mut found = Vec::new();
    let mut finding = |what: &str, of: [&LockChange<'_>; 2]| {
        let what = format!("{tenant}.lock.{owner}: {what}");
        found.push(ChaosFinding::new("I-7", what, of.map(|change| change.by)));
    };
    // The earliest end of all changes with a higher version.
    let mut later: Option<&LockChange<'_>> = None;
    for change in changes.iter().rev() {
        if let Some(later) = later.filter(|later| later.version > change.version)
            && later.ended < change.begun
        {
            finding("a change came before one that had ended when it began", [later, change]);
        }
        if later.is_none_or(|later| change.ended < later.ended) {
            later = Some(change);
        }
    }
    for pair in changes.windows(2) {
        if pair[0].version == pair[1].version {
            finding("two commands made the same version", [&pair[0], &pair[1]]);
        }
    }
    let given: Vec<(&LockChange<'_>, i64)> =
        changes.iter().filter_map(|change| Some((change, change.given()?))).collect();
    for pair in given.windows(2) {
        let [(before, known), (after, token)] = [pair[0], pair[1]];
        if token < known {
            finding("a later lock has a lower token", [before, after]);
        } else if token == known && before.is_lock() && after.is_lock() {
            finding("two locks have one token", [before, after]);
        } else if token != known && follows(after.version, before.version) {
            finding("it was given to another while it was held", [before, after]);
        }
    }
    // A lock that is claimed brings the token along that its session was given.
    let is_claimed = changes.iter().any(|change| &*change.by.verb == "claim");
    for change in changes.iter().filter(|_| !is_claimed) {
        let Some(shown) = change.by.token.filter(|_| change.given().is_none()) else { continue };
        let newer =
            given.iter().find(|(other, token)| *token > shown && other.ended < change.begun);
        if let Some((newer, _)) = newer {
            finding("something was done with an old token", [newer, change]);
        }
    }
    found
}

/// Returns true if nothing can have been in between.
fn follows(after: EraVersion, before: EraVersion) -> bool {
    after.era == before.era && after.version == before.version + 1
}
