//! table-status-reconciler: finds tables that are not what their turns say, and has them repaired.
//!
//! An order is **unpaid** if it is neither paid nor cancelled. A table is a **ghost** when it is
//! `occupied` without an open turn (`ghost_no_turn`), or when its open turn has orders and none of
//! them is unpaid (`ghost_all_paid`). It is **phantom-free** when it is `available` with an open turn
//! (`phantom_open_turn`), or with an unpaid order of its latest turn, unless that was closed by force
//! (`phantom_unpaid`). A party that has just sat down, with no order yet, is neither. Every command
//! leaves a table right in its own transaction, so whatever is found was made by a faulty program
//! or by hand.
//!
//! It looks every second, and at once after an event of a table or of an order that may change one:
//! the event only wakes it, what is wrong is read from SQL, by one statement over the few rows that
//! can be wrong. Each finding becomes a command `reconcile` with the finding, what was seen and the
//! version of the table; command-handler looks again under its locks, so a finding that is not so
//! any more, or that another instance repaired, changes nothing.
//!
//! Guarantees: a ghost or phantom-free table is repaired within 3 s while the fleet runs; in a healthy
//! fleet nothing is found. It reads with a role that may not write anything, and may be started any
//! number of times. With `BRIGADE_RECONCILER_DRY_RUN` it counts and logs, and sends nothing.
//!
//! Not responsible for: deciding what is done (command-handler), tables shown wrongly in KV
//! (cache-verifier).

use std::time::Duration;

use async_nats::{HeaderMap, Request};
use brigade_contracts::{
    Address, Aggregate, Body, Outcome, header, subject,
    table::{Finding, Reconcile, Verb},
};
use futures::{StreamExt, future::join_all, stream::select_all};
use sqlx::PgConnection;
use tokio::time::{MissedTickBehavior, interval};
use uuid::Uuid;

use crate::{
    runtime::Context,
    store::postgres::{Failure, bounded, failure},
};

/// How often it looks without an event.
const EVERY: Duration = Duration::from_secs(1);
/// Most findings repaired in one go.
const AT_ONCE: i64 = 200;
/// An answer takes milliseconds. What is not answered by then is found again.
const PATIENCE: Duration = Duration::from_secs(2);

/// A table that is wrong.
#[derive(Debug)]
struct Found {
    table: Address,
    reconcile: Reconcile,
}

/// What came of a look.
#[derive(Debug, Default, PartialEq, Eq)]
struct Looked {
    found: usize,
    repaired: usize,
    /// Not so any more when it was decided.
    gone: usize,
    /// Nobody decides now, or an answer that nobody expects.
    failed: Vec<String>,
}

/// # Errors
/// Where NATS cannot be used.
pub async fn run(cx: Context) -> anyhow::Result<()> {
    let mut hints = Vec::new();
    for subject in subject::TABLES_MAY_CHANGE {
        hints.push(cx.nats.client.subscribe(subject).await?);
    }
    let mut hints = select_all(hints);
    let duty = cx.health.duty("looks");
    let mut tick = interval(EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            hint = hints.next() => anyhow::ensure!(hint.is_some(), "the subscriptions ended"),
            () = cx.drain.cancelled() => return Ok(()),
        }
        // One look answers all hints that came before it.
        while futures::FutureExt::now_or_never(hints.next()).flatten().is_some() {}
        duty.went_round();
        match look(&cx).await {
            Ok(looked) => {
                cx.health.back("postgres");
                duty.moved();
                tell(&cx, &looked);
            }
            Err(error) if failure(&error) == Failure::Fault => {
                tracing::error!(worker = %cx.worker, %error, "cannot look for ghosts");
            }
            Err(error) => cx.health.away("postgres", &error.to_string()),
        }
    }
}

fn tell(cx: &Context, looked: &Looked) {
    let Looked { found, repaired, gone, failed } = looked;
    if let Some(why) = failed.first() {
        tracing::warn!(worker = %cx.worker, found, failed = failed.len(), why, "not repaired");
    }
    if *repaired > 0 {
        tracing::warn!(worker = %cx.worker, found, repaired, gone, "ghosts repaired");
    }
}

/// Looks once, and has repaired what is found.
async fn look(cx: &Context) -> sqlx::Result<Looked> {
    let found = bounded(&cx.postgres, async |c| find(c).await).await?;
    let mut looked = Looked { found: found.len(), ..Looked::default() };
    if found.is_empty() {
        return Ok(looked);
    }
    cx.fail.point("table-status-reconciler.before_send").await;
    for one in &found {
        let Found { table, reconcile } = one;
        let finding = reconcile.finding.as_str();
        cx.metrics.tables_found.with_label_values(&[finding]).inc();
        tracing::warn!(worker = %cx.worker, %table, finding, evidence = %reconcile.evidence, "found");
    }
    if cx.dry_run {
        return Ok(looked);
    }
    let answers = join_all(found.iter().map(|one| repair(cx, one))).await;
    for (one, answer) in found.iter().zip(answers) {
        match answer {
            Ok(true) => {
                let finding = one.reconcile.finding.as_str();
                cx.metrics.tables_repaired.with_label_values(&[finding]).inc();
                looked.repaired += 1;
            }
            Ok(false) => looked.gone += 1,
            Err(why) => looked.failed.push(why),
        }
    }
    cx.fail.point("table-status-reconciler.after_send").await;
    Ok(looked)
}

/// Sends the command; false: it is not so any more.
async fn repair(cx: &Context, found: &Found) -> Result<bool, String> {
    let body = Body::Table(Verb::Reconcile(found.reconcile.clone()));
    let (_, payload) = body.encode();
    let mut headers = HeaderMap::new();
    headers.insert(header::COMMAND_ID, Uuid::now_v7().to_string());
    headers.insert(header::ACTOR, cx.worker.as_str());
    let request = Request::new().headers(headers).payload(payload.into()).timeout(Some(PATIENCE));
    let answer = cx.nats.client.send_request(subject::reconcile(&found.table), request).await;
    let answer = answer.map_err(|error| format!("command-handler: {error}"))?;
    let outcome: Outcome =
        serde_json::from_slice(&answer.payload).map_err(|error| error.to_string())?;
    match outcome.status {
        200 => Ok(true),
        404 | 409 | 412 if outcome.code != "unknown_verb" => Ok(false),
        status => Err(format!("{status} {}: {}", outcome.code, outcome.message)),
    }
}

async fn find(postgres: &mut PgConnection) -> sqlx::Result<Vec<Found>> {
    let rows = sqlx::query_file!("src/table_status_reconciler/findings.sql", AT_ONCE)
        .fetch_all(postgres)
        .await?;
    let found = |tenant: &str, id: &str, finding: &str, version: i64, evidence: &str| {
        let finding = Finding::ALL.into_iter().find(|known| known.as_str() == finding)?;
        Some(Found {
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
        .filter_map(|row| found(&row.tenant, &row.id, &row.finding, row.version, &row.evidence))
        .collect())
}
