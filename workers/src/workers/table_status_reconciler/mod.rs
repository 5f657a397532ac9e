//! table-status-reconciler: detects tables that contradict their turns, and has them repaired.
//!
//! An order is **unpaid** if it is neither paid nor cancelled. A table is a **ghost** when it is
//! `occupied` without an open turn (`ghost_no_turn`), or when its open turn has orders and none of
//! them is unpaid (`ghost_all_paid`). It is **phantom-free** when it is `available` with an open
//! turn (`phantom_open_turn`), or with an unpaid order of its latest turn, unless that was closed
//! by force (`phantom_unpaid`). A party that has just sat down, with no order yet, is neither.
//! Every command leaves a table right in its own transaction, so every finding comes from a faulty
//! program or from a change by hand.
//!
//! Each half second it checks the tables that were **hinted** at: an event of a table or of an
//! order that may change one names it, once however many events there are, and to one instance of
//! all. The holder of a lease also checks all tables, page by page ([`PAGE`]) and around again. The
//! event only names a table; its inconsistency is read from SQL, by one statement. Each finding
//! becomes a command `reconcile` with the finding, its evidence and the version of the table;
//! command-handler checks again under its locks, so a finding that no longer holds, or that another
//! instance repaired, changes nothing.
//!
//! Guarantees: a ghost or phantom-free table is repaired within 3 s while the fleet runs, also
//! where no event names it; in a healthy fleet there is no finding. A round reads 4,000 tables a
//! second, an instance at most 1,000 hints, each with at most 3 rows besides, however many orders,
//! turns and tenants there are. With more than 10,000 tables a round takes longer than 3 s, 25 s
//! with 100,000, and only what is hinted at is repaired sooner. Its role may write nothing but its
//! lease, and it may be started any number of times. With `BRIGADE_RECONCILER_DRY_RUN` it counts
//! and logs, and sends nothing.
//!
//! Not responsible for: deciding the repair (command-handler), tables projected wrongly into KV
//! (cache-verifier).

mod metrics;
#[cfg(test)]
mod tests;

use std::{collections::BTreeSet, mem, sync::Arc, time::Duration};

use async_nats::Message;
use brigade_contracts::{
    Address, Aggregate, Body, header, subject,
    table::{Finding, Reconcile, Verb},
};
use futures::{StreamExt, future::join_all, stream::select_all};
use sqlx::PgConnection;
use tokio::time::{Instant, MissedTickBehavior, interval};

pub use self::metrics::ReconcilerMetrics;
use crate::{
    infra::{
        Context, Lease,
        health::POSTGRES,
        lease::{Fitness, RENEW},
        postgres::{Failure, bounded, failure},
    },
    runtime::{CommandClient, CommandOptions, NotDecided},
};

const LEASE: &str = "table-status-reconciler.round";
/// Tables of a page, of which there is one each [`RENEW`]. It takes Postgres some 30 ms.
const PAGE: i64 = 2000;
/// The shortest time between the beginnings of two scans of all tables.
const SCAN_EVERY: Duration = Duration::from_secs(1);
/// Most tables and orders that are hinted at between two steps. What comes besides is left to the
/// scan.
const HINTS: usize = 500;
/// Most commands in flight.
const AT_ONCE: usize = 200;
/// An outcome takes milliseconds. A table whose outcome comes later is detected again.
const TIMEOUT: Duration = Duration::from_secs(2);

/// A table that contradicts its turns, and the command that repairs it.
#[derive(Debug)]
struct InconsistentTable {
    table: Address,
    reconcile: Reconcile,
}

/// A decision of command-handler about an inconsistent table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reconciliation {
    Repaired,
    /// The finding no longer held when it was decided.
    Obsolete,
}

/// The counts of one step.
#[derive(Debug, Default, PartialEq, Eq)]
struct ReconcilerStep {
    found: usize,
    repaired: usize,
    obsolete: usize,
    /// One entry per command that was not decided.
    failed: Vec<NotDecided>,
}

struct Reconciler {
    cx: Context,
    metrics: Arc<ReconcilerMetrics>,
    /// Findings are counted and logged, and nothing is sent.
    dry_run: bool,
}

/// A scan of all tables, by key.
struct TableScan {
    /// The last table of the page before.
    after: (String, String),
    /// When the next scan begins.
    next: Instant,
}

/// Runs until the drain. In a dry run it counts and logs, and sends nothing.
///
/// # Errors
/// If NATS cannot be used.
pub async fn run(cx: Context, dry_run: bool) -> anyhow::Result<()> {
    let mut hints = Vec::new();
    for subject in subject::TABLES_MAY_CHANGE {
        // Each event reaches one instance of all.
        hints.push(cx.nats.client.queue_subscribe(subject, cx.worker.to_string()).await?);
    }
    let mut hints = select_all(hints);
    let duty = cx.health.duty("checks");
    let metrics = cx.metrics.group::<ReconcilerMetrics>();
    let reconciler = Reconciler { cx: cx.clone(), metrics, dry_run };
    let mut tick = interval(RENEW);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut scan = TableScan { after: Default::default(), next: Instant::now() };
    let mut hinted = BTreeSet::new();
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            hint = hints.next() => {
                let hint = hint.ok_or_else(|| anyhow::anyhow!("the subscriptions ended"))?;
                if hinted.len() < HINTS {
                    hinted.extend(named(&hint));
                }
                continue;
            }
            () = cx.drain.cancelled() => break,
        }
        duty.went_round();
        match reconciler.step(&mut scan, mem::take(&mut hinted)).await {
            Ok(done) => {
                cx.health.back(POSTGRES);
                duty.moved();
                log(&cx, &done);
            }
            Err(error) if failure(&error) == Failure::Fault => {
                tracing::error!(worker = %cx.worker, %error, "check of tables failed");
            }
            Err(error) => cx.health.away(POSTGRES, &error.to_string()),
        }
    }
    // Best effort: a lease that is not given back runs out.
    let _given_back = Lease::give_back(&cx.postgres, &cx.instance).await;
    Ok(())
}

/// Returns the table or the order that an event belongs to.
fn named(hint: &Message) -> Option<Address> {
    let id = hint.headers.as_ref().and_then(|headers| headers.get(header::CE_SUBJECT));
    subject::parse_event(&hint.subject, id.map(|id| id.as_str())).map(|(address, _)| address)
}

impl Reconciler {
    /// Checks the hinted tables and, under the lease, the next page of all tables.
    async fn step(
        &self,
        scan: &mut TableScan,
        hinted: BTreeSet<Address>,
    ) -> sqlx::Result<ReconcilerStep> {
        let cx = &self.cx;
        let (mut suspects, mut after) = (hinted, None);
        let begins = scan.after == Default::default();
        if Lease::hold(cx, LEASE, &Fitness::default()).await?
            && (!begins || Instant::now() >= scan.next)
        {
            if begins {
                scan.next = Instant::now() + SCAN_EVERY;
            }
            let page = bounded(&cx.postgres, async |c| page(c, &scan.after, PAGE).await).await?;
            let full = page.len() as i64 == PAGE;
            after = Some(page.last().filter(|_| full).cloned().unwrap_or_default());
            let table =
                |(tenant, id): &(String, String)| Address::new(tenant, Aggregate::Table, id);
            suspects.extend(page.iter().filter_map(|key| table(key).ok()));
        }
        let done = if suspects.is_empty() {
            ReconcilerStep::default()
        } else {
            self.check(&suspects).await?
        };
        // Not before: a page that could not be checked is loaded again.
        if let Some(after) = after {
            scan.after = after;
        }
        Ok(done)
    }

    /// Detects which of these tables, and of the tables of these orders, are inconsistent, and has
    /// them repaired.
    async fn check(&self, suspects: &BTreeSet<Address>) -> sqlx::Result<ReconcilerStep> {
        let cx = &self.cx;
        let inconsistent = bounded(&cx.postgres, async |c| find(c, suspects).await).await?;
        let mut done = ReconcilerStep { found: inconsistent.len(), ..Default::default() };
        if inconsistent.is_empty() {
            return Ok(done);
        }
        cx.fail.point("table-status-reconciler.before_send").await;
        for InconsistentTable { table, reconcile } in &inconsistent {
            let (finding, evidence) = (reconcile.finding.as_str(), &reconcile.evidence);
            self.metrics.tables_found.with_label_values(&[finding]).inc();
            tracing::warn!(worker = %cx.worker, %table, finding, %evidence, "inconsistent table");
        }
        if self.dry_run {
            return Ok(done);
        }
        for some in inconsistent.chunks(AT_ONCE) {
            let decisions = join_all(some.iter().map(|one| self.repair(one))).await;
            for (one, decision) in some.iter().zip(decisions) {
                match decision {
                    Ok(Reconciliation::Repaired) => {
                        let finding = one.reconcile.finding.as_str();
                        self.metrics.tables_repaired.with_label_values(&[finding]).inc();
                        done.repaired += 1;
                    }
                    Ok(Reconciliation::Obsolete) => done.obsolete += 1,
                    Err(not_decided) => done.failed.push(not_decided),
                }
            }
            // command-handler does not decide now: the rest is detected again.
            if !done.failed.is_empty() {
                break;
            }
        }
        cx.fail.point("table-status-reconciler.after_send").await;
        Ok(done)
    }

    /// Sends `reconcile` once, under a new Command-Id.
    async fn repair(&self, inconsistent: &InconsistentTable) -> Result<Reconciliation, NotDecided> {
        let InconsistentTable { table, reconcile } = inconsistent;
        let body = Body::Table(Verb::Reconcile(reconcile.clone()));
        let client = CommandClient::new(&self.cx, TIMEOUT);
        let outcome = client.send(table, &body, CommandOptions::default()).await?;
        match outcome.status {
            200 => Ok(Reconciliation::Repaired),
            404 | 409 | 412 if outcome.code != "unknown_verb" => Ok(Reconciliation::Obsolete),
            _ => Err(NotDecided::unexpected(&outcome)),
        }
    }
}

/// Loads the keys of the next tables.
async fn page(
    postgres: &mut PgConnection,
    after: &(String, String),
    most: i64,
) -> sqlx::Result<Vec<(String, String)>> {
    let rows = sqlx::query!(
        "select tenant, id from brigade.tables where (tenant, id) > ($1, $2)
         order by tenant, id limit $3",
        after.0,
        after.1,
        most,
    )
    .fetch_all(postgres)
    .await?;
    Ok(rows.into_iter().map(|row| (row.tenant, row.id)).collect())
}

fn log(cx: &Context, done: &ReconcilerStep) {
    let ReconcilerStep { found, repaired, obsolete, failed } = done;
    if let Some(why) = failed.first() {
        let failed = failed.len();
        tracing::warn!(worker = %cx.worker, found, failed, %why, "tables not repaired");
    }
    if *repaired > 0 {
        tracing::warn!(worker = %cx.worker, found, repaired, obsolete, "tables repaired");
    }
}

/// Returns those of these tables, and of the tables of these orders, that are inconsistent.
async fn find(
    postgres: &mut PgConnection,
    suspects: &BTreeSet<Address>,
) -> sqlx::Result<Vec<InconsistentTable>> {
    let text = |aggregate: Aggregate, f: fn(&Address) -> &str| {
        suspects.iter().filter(|a| a.aggregate == aggregate).map(f).collect::<Vec<_>>()
    };
    let rows = sqlx::query_file!(
        "src/workers/table_status_reconciler/findings.sql",
        &text(Aggregate::Table, |a| a.tenant.as_str()) as _,
        &text(Aggregate::Table, |a| a.id.as_str()) as _,
        &text(Aggregate::Order, |a| a.tenant.as_str()) as _,
        &text(Aggregate::Order, |a| a.id.as_str()) as _,
    )
    .fetch_all(postgres)
    .await?;
    let inconsistent = |tenant: &str, id: &str, finding: &str, version: i64, evidence: &str| {
        let finding = Finding::ALL.into_iter().find(|known| known.as_str() == finding)?;
        Some(InconsistentTable {
            table: Address::new(tenant, Aggregate::Table, id).ok()?,
            reconcile: Reconcile {
                expected_version: version.cast_unsigned(),
                finding,
                evidence: serde_json::from_str(evidence).ok()?,
            },
        })
    };
    Ok(rows
        .iter()
        .filter_map(|row| {
            inconsistent(&row.tenant, &row.id, &row.finding, row.version, &row.evidence)
        })
        .collect())
}
