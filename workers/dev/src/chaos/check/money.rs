//! I-9, I-10 and I-16 from the gateway's side: what it said, to the cent, is what brigade recorded.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde::Serialize;

use super::{ChaosFinding, Evidence};
use crate::chaos::{history::Operation, workload::GatewayFact};

/// The sums of a tenant in one currency.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct TenantSums {
    /// The sum that gateways and tills said, by their own books, and had answered as recorded.
    pub said: i64,
    pub captured: i64,
    pub applied: i64,
    pub owed: i64,
}

/// A capture as SQL has it.
#[derive(Clone, Debug)]
pub struct GatewayCapture {
    pub tenant: String,
    pub payment: String,
    pub transaction: Option<String>,
    pub amount: i64,
    pub currency: String,
}

/// Tenant, payment and transaction.
type Paid<'a> = (&'a str, &'a str, Option<&'a str>);

/// Returns what was recorded and never said, what was said and not recorded, and the sums that do
/// not agree; and all sums.
#[must_use]
pub fn check(
    facts: &[GatewayFact],
    operations: &[Operation],
    evidence: &Evidence,
) -> (Vec<ChaosFinding>, BTreeMap<String, TenantSums>) {
    let mut found = Vec::new();
    let mut captures: HashSet<Paid<'_>> = HashSet::new();
    let mut by_payment: HashMap<(&str, &str), Vec<&GatewayFact>> = HashMap::new();
    for fact in facts.iter().filter(|fact| fact.captured) {
        by_payment.entry((&fact.tenant, &fact.payment)).or_default().push(fact);
    }
    for capture in &evidence.captures {
        let of_payment = by_payment.get(&(capture.tenant.as_str(), capture.payment.as_str()));
        let said = of_payment.into_iter().flatten().any(|fact| {
            fact.transaction == capture.transaction
                && (fact.amount, &fact.currency) == (capture.amount, &capture.currency)
        });
        if !said {
            found.push(finding(
                operations,
                &capture.tenant,
                &capture.payment,
                "I-9",
                format!("{capture:?} was never said"),
            ));
        }
        captures.insert(place(&capture.tenant, &capture.payment, &capture.transaction));
    }
    for fact in facts.iter().filter(|fact| fact.captured && fact.amount > 0) {
        let outcome = evidence.inbox.get(&(fact.tenant.clone(), fact.command_id.clone()));
        let is_recorded = outcome.is_some_and(|outcome| outcome.status == 200);
        let of = place(&fact.tenant, &fact.payment, &fact.transaction);
        if is_recorded && !captures.contains(&of) {
            found.push(finding(
                operations,
                &fact.tenant,
                &fact.payment,
                "I-16",
                format!("{fact:?} was answered as recorded, and is not"),
            ));
        }
    }
    let sums = sums(facts, evidence);
    for (of, sums) in &sums {
        if sums.said != sums.captured || sums.captured != sums.applied + sums.owed {
            let what = format!("{of}: {sums:?}");
            found.push(ChaosFinding::new("I-10", what, []));
        }
    }
    (found, sums)
}

fn place<'a>(tenant: &'a str, payment: &'a str, transaction: &'a Option<String>) -> Paid<'a> {
    (tenant, payment, transaction.as_deref())
}

fn sums(facts: &[GatewayFact], evidence: &Evidence) -> BTreeMap<String, TenantSums> {
    let mut sums: BTreeMap<String, TenantSums> = BTreeMap::new();
    let mut counted = HashSet::new();
    for fact in facts.iter().filter(|fact| fact.captured) {
        let id = (fact.tenant.clone(), fact.command_id.clone());
        // Said again, it is the same money: the first command that recorded it counts.
        let is_first = evidence.inbox.get(&id).is_some_and(|o| o.status == 200 && o.code == "ok");
        if is_first && counted.insert(place(&fact.tenant, &fact.payment, &fact.transaction)) {
            sums.entry(format!("{} {}", fact.tenant, fact.currency)).or_default().said +=
                fact.amount;
        }
    }
    for capture in &evidence.captures {
        let of = format!("{} {}", capture.tenant, capture.currency);
        sums.entry(of).or_default().captured += capture.amount;
    }
    for (of, applied, owed) in &evidence.accounted {
        let sums = sums.entry(of.clone()).or_default();
        sums.applied += applied;
        sums.owed += owed;
    }
    sums
}

fn finding(
    operations: &[Operation],
    tenant: &str,
    payment: &str,
    invariant: &'static str,
    what: String,
) -> ChaosFinding {
    let key = format!("payment.{payment}");
    let of = operations.iter().filter(|by| &*by.tenant == tenant && *by.key == *key);
    ChaosFinding::new(invariant, what, of)
}
