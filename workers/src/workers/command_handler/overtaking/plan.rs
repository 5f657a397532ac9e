//! The decisions about a lane, without any I/O.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::consumer::ConsumerState;

/// Most tenants that overtake, since the server compares all filters of a consumer with each other.
pub(super) const MAX_TENANTS: usize = 500;
/// The number of deliveries from which the heavy tenants can be told.
const SAMPLE: usize = 100;
/// Least time between two makings of a lane for new tenants: each delivers again what the one
/// before has delivered already.
const RENEWAL_INTERVAL: Duration = Duration::from_secs(2);
/// Age of a lane from which it is checked that its heavy tenants are still heavy.
const REVIEW_INTERVAL: Duration = Duration::from_secs(30);

/// A change of a lane.
#[derive(Debug, PartialEq)]
pub(super) enum LaneStep {
    Leave,
    /// It is made, or made again, for these tenants, who overtake the heavy ones.
    Make {
        tenants: BTreeSet<String>,
        heavy: BTreeSet<String>,
    },
    Delete,
}

/// Returns the change of a lane whose consumer `below` is overtaken. `above` is the consumer of the
/// lane itself, which has this age. `recent` are the tenants of the last deliveries of the one
/// below, or, if it is stalled, of its last redeliveries; `listed` are all tenants.
pub(super) fn next_step(
    below: &ConsumerState,
    above: Option<&ConsumerState>,
    age: Duration,
    recent: &[Box<str>],
    listed: &[String],
) -> LaneStep {
    let others = |heavy: &BTreeSet<String>| -> BTreeSet<String> {
        let may = |tenant: &&String| below.delivers(tenant) && !heavy.contains(*tenant);
        listed.iter().filter(may).take(MAX_TENANTS).cloned().collect()
    };
    let make = |heavy: BTreeSet<String>| {
        let tenants = others(&heavy);
        let is_useful = !heavy.is_empty() && !tenants.is_empty();
        is_useful.then_some(LaneStep::Make { tenants, heavy })
    };
    let Some(above) = above else { return make(heavy(recent)).unwrap_or(LaneStep::Leave) };
    if age >= REVIEW_INTERVAL && recent.len() >= SAMPLE {
        let heavy = heavy(recent);
        if heavy.is_disjoint(&above.heavy) {
            return make(heavy).unwrap_or(LaneStep::Delete);
        }
    }
    let tenants = others(&above.heavy);
    let delivers_all = tenants.iter().all(|tenant| above.delivers(tenant));
    let interval = if tenants.len() < MAX_TENANTS { RENEWAL_INTERVAL } else { REVIEW_INTERVAL };
    if delivers_all || age < interval {
        return LaneStep::Leave;
    }
    LaneStep::Make { tenants, heavy: above.heavy.clone() }
}

/// Returns the tenants that cause a backlog, given those of its last deliveries: the tenants with
/// at least an equal share of them, and one in a hundred.
fn heavy(recent: &[Box<str>]) -> BTreeSet<String> {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for tenant in recent {
        *counts.entry(tenant).or_default() += 1;
    }
    let (all, tenants) = (recent.len(), counts.len());
    let is_heavy = |count: usize| count * tenants >= all && count * 100 >= all;
    let heavy = counts.into_iter().filter(|(_, count)| all >= SAMPLE && is_heavy(*count));
    heavy.map(|(tenant, _)| tenant.to_owned()).collect()
}

#[cfg(test)]
mod tests;
