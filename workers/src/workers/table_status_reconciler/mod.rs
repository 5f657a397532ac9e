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
//! Each half second it looks at the tables that were **hinted** at: an event of a table or of an order
//! that may change one names it, once however many events there are, and to one instance of all. The
//! holder of a lease looks besides at all tables, page by page ([`PAGE`]) and around again. The event
//! only says where to look; what is wrong is read from SQL, by one statement. Each finding becomes a
//! command `reconcile` with the finding, what was seen and the version of the table; command-handler
//! looks again under its locks, so a finding that is not so any more, or that another instance
//! repaired, changes nothing.
//!
//! Guarantees: a ghost or phantom-free table is repaired within 3 s while the fleet runs, also where no
//! event tells of it; in a healthy fleet nothing is found. A round reads 4,000 tables a second, an
//! instance at most 1,000 hints, each with at most 3 rows besides, however many orders, turns and
//! tenants there are. With more than 10,000 tables a round takes longer than 3 s, 25 s with 100,000,
//! and only what is hinted at is repaired sooner. Its role may write nothing but its lease, and it may
//! be started any number of times. With `BRIGADE_RECONCILER_DRY_RUN` it counts and logs, and sends
//! nothing.
//!
//! Not responsible for: deciding what is done (command-handler), tables shown wrongly in KV
//! (cache-verifier).

#[cfg(test)]
mod tests;

use std::{collections::BTreeSet, mem, time::Duration};

use async_nats::{HeaderMap, Message, Request};
use brigade_contracts::{
    Address, Aggregate, Body, Outcome, header, subject,
    table::{Finding, Reconcile, Verb},
};
use futures::{StreamExt, future::join_all, stream::select_all};
use sqlx::PgConnection;
use tokio::time::{Instant, MissedTickBehavior, interval};
use uuid::Uuid;

use crate::infra::{
    Context, Lease,
    lease::{Fitness, RENEW},
    postgres::{Failure, bounded, failure},
};

const LEASE: &str = "table-status-reconciler.round";
/// Tables of a page, of which there is one each [`RENEW`]. It takes Postgres some 30 ms.
const PAGE: i64 = 2000;
/// How often a round through all tables begins, at most.
const EVERY: Duration = Duration::from_secs(1);
/// Most tables and orders that are hinted at in one go. What comes besides is left to the round.
const HINTS: usize = 500;
/// Most findings repaired in one go.
const AT_ONCE: usize = 200;
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

/// A way through all tables, by key.
struct Round {
    /// The last table of the page before.
    after: (String, String),
    /// When the next round begins.
    next: Instant,
}

/// Runs until the drain. In a dry run it counts and logs, and sends nothing.
///
/// # Errors
/// Where NATS cannot be used.
pub async fn run(cx: Context, dry_run: bool) -> anyhow::Result<()> {
    let mut hints = Vec::new();
    for subject in subject::TABLES_MAY_CHANGE {
        // One instance of all hears of an event.
        hints.push(cx.nats.client.queue_subscribe(subject, cx.worker.to_string()).await?);
    }
    let mut hints = select_all(hints);
    let duty = cx.health.duty("looks");
    let mut tick = interval(RENEW);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut round = Round { after: Default::default(), next: Instant::now() };
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
        match step(&cx, dry_run, &mut round, mem::take(&mut hinted)).await {
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
    // Best effort: a lease that is not given back runs out.
    let _given_back = Lease::give_back(&cx.postgres, &cx.instance).await;
    Ok(())
}

/// The table or the order that an event is of.
fn named(hint: &Message) -> Option<Address> {
    let id = hint.headers.as_ref().and_then(|headers| headers.get(header::CE_SUBJECT));
    subject::parse_event(&hint.subject, id.map(|id| id.as_str())).map(|(address, _)| address)
}

/// Looks at what was hinted at and, under the lease, at the next page of all tables.
async fn step(
    cx: &Context,
    dry_run: bool,
    round: &mut Round,
    hinted: BTreeSet<Address>,
) -> sqlx::Result<Looked> {
    let (mut looked_at, mut after) = (hinted, None);
    let begins = round.after == Default::default();
    if Lease::hold(cx, LEASE, &Fitness::default()).await?
        && (!begins || Instant::now() >= round.next)
    {
        if begins {
            round.next = Instant::now() + EVERY;
        }
        let page = bounded(&cx.postgres, async |c| page(c, &round.after, PAGE).await).await?;
        let full = page.len() as i64 == PAGE;
        after = Some(page.last().filter(|_| full).cloned().unwrap_or_default());
        let table = |(tenant, id): &(String, String)| Address::new(tenant, Aggregate::Table, id);
        looked_at.extend(page.iter().filter_map(|key| table(key).ok()));
    }
    let looked = if looked_at.is_empty() {
        Looked::default()
    } else {
        look(cx, dry_run, &looked_at).await?
    };
    // Not before: a page that could not be looked at comes again.
    if let Some(after) = after {
        round.after = after;
    }
    Ok(looked)
}

/// The keys of the next tables.
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

fn tell(cx: &Context, looked: &Looked) {
    let Looked { found, repaired, gone, failed } = looked;
    if let Some(why) = failed.first() {
        tracing::warn!(worker = %cx.worker, found, failed = failed.len(), why, "not repaired");
    }
    if *repaired > 0 {
        tracing::warn!(worker = %cx.worker, found, repaired, gone, "ghosts repaired");
    }
}

/// Looks at tables, and those of orders, and has repaired what is found.
async fn look(cx: &Context, dry_run: bool, looked_at: &BTreeSet<Address>) -> sqlx::Result<Looked> {
    let found = bounded(&cx.postgres, async |c| find(c, looked_at).await).await?;
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
    if dry_run {
        return Ok(looked);
    }
    for some in found.chunks(AT_ONCE) {
        let answers = join_all(some.iter().map(|one| repair(cx, one))).await;
        for (one, answer) in some.iter().zip(answers) {
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
        // Nobody decides now: the rest is found again.
        if !looked.failed.is_empty() {
            break;
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

async fn find(
    postgres: &mut PgConnection,
    looked_at: &BTreeSet<Address>,
) -> sqlx::Result<Vec<Found>> {
    let text = |aggregate: Aggregate, f: fn(&Address) -> &str| {
        looked_at.iter().filter(|a| a.aggregate == aggregate).map(f).collect::<Vec<_>>()
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
