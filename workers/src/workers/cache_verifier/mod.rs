//! cache-verifier: what JetStream loses is made again from SQL.
//!
//! A **mark** is what a stream looked like when all was well: creation time, the server's id, first
//! and last sequence ([`marks`]). Each second the holder of the lease compares every stream of the
//! topology with its last mark. A **loss** is whatever says that messages may be gone since: no
//! stream, one made again, a purge, a last sequence below the mark. A server that was started again
//! is a **suspicion**: buckets are not synced to disk, so what is newest is checked, and counted
//! apart. A purge of a bucket takes its **canary** along, a key of
//! cache-verifier's own that is written once; all other keys may be overwritten or expire between two
//! marks, which is no loss. Then it **heals** ([`heal`]):
//!
//! | lost | is brought back by |
//! |---|---|
//! | a bucket | notes in `unshown`, which command-handler shows, and the last event of each projected part in the outbox again, from which its projector writes it |
//! | `KV_cart_locks`, `TIMERS` | notes of locks in `unshown`: command-handler shows a lock and its timer together |
//! | `EVENTS` | events in the outbox again, which outbox-relay publishes |
//! | `COMMANDS`, `DLQ` | the stream is made again; what was in it was truth and is gone: an error is logged |
//!
//! That the last two are emptied is usual: what is done leaves them. The rest are rows in SQL for
//! those who own the keys: it writes no event, no aggregate, and no key but the canaries. A mark is
//! noted only after everything before it is healed, so whoever takes over after a crash finds the
//! same loss again; healing twice changes nothing.
//!
//! Beside it runs the **audit** ([`audit`]), which compares a page of aggregates a second with what
//! stands in KV, and heals single keys the same way.
//!
//! And it **verifies** what is cached of users' sessions, event by event ([`sessions`]).
//!
//! Guarantees: at rest, buckets and `EVENTS` are complete again some seconds after any loss. Not
//! on the path of a right answer: queries are confirmed with SQL, whatever KV says.
//!
//! Not responsible for: showing (command-handler, the projectors), publishing (outbox-relay),
//! consumers (each worker makes its own again), changed settings of streams (`brigade provision`).

mod audit;
mod heal;
mod marks;
mod sessions;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::{
    sync::Mutex,
    time::{Instant, MissedTickBehavior, interval},
};

use self::{
    audit::Audit,
    heal::{Heal, Plan},
    marks::{Found, Loss, Mark},
    sessions::{AskForState, Sessions},
};
use crate::{
    infra::{
        Context, Lease,
        health::Duty,
        lease::{Fitness, RENEW},
        postgres::{Failure, failure},
    },
    runtime::{Source, consume, supervise::supervise},
};

const LEASE: &str = "cache-verifier.marks";
const AUDIT_LEASE: &str = "cache-verifier.audit";
/// How often streams are compared with their marks, and a page is audited.
const EVERY: Duration = Duration::from_secs(1);
/// How often marks older than a day are deleted.
const TIDY: Duration = Duration::from_secs(60);

/// # Errors
/// Where NATS cannot be used at all.
pub async fn run(cx: Context) -> anyhow::Result<()> {
    let messages = cx.health.duty("messages");
    let auditing = {
        let (cx, duty) = (cx.clone(), Arc::new(cx.health.duty("audit")));
        let audit = Arc::new(Mutex::new(Audit::open(&cx).await?));
        supervise("the audit", move || keep_auditing(cx.clone(), audit.clone(), duty.clone()))
    };
    let sessions = Sessions::open(&cx, AskForState(cx.nats.client.clone())).await?;
    let watching = consume(&cx, messages, &[Source::Stream("EVENTS")], sessions);
    let marking = async {
        keep_marks(&cx).await;
        anyhow::Ok(())
    };
    tokio::try_join!(marking, watching)?;
    auditing.await?;
    // Best effort: a lease that is not given back runs out.
    let _given_back = Lease::give_back(&cx.postgres, &cx.instance).await;
    Ok(())
}

/// Compares the streams with their marks, under the lease, until the drain. Errors pause it: the
/// next round begins with the same marks.
async fn keep_marks(cx: &Context) {
    let duty = cx.health.duty("marks");
    let mut fitness = Fitness::default();
    let mut tick = interval(RENEW);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut next, mut tidy) = (Instant::now(), Instant::now());
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            () = cx.drain.cancelled() => return,
        }
        let round = async {
            let mine = Lease::hold(cx, LEASE, &fitness).await?;
            if mine && Instant::now() >= next {
                next = Instant::now() + EVERY;
                compare(cx, &duty).await?;
                fitness.works();
                if Instant::now() >= tidy {
                    tidy = Instant::now() + TIDY;
                    marks::tidy(&cx.postgres, &names(cx)).await?;
                }
            }
            anyhow::Ok(())
        };
        match round.await {
            Ok(()) => {
                cx.health.back("postgres");
                cx.health.back("streams");
                duty.moved();
            }
            Err(error) => {
                if dependency(&error) == "streams" {
                    fitness.fails();
                }
                duty.went_round();
                cx.health.away(dependency(&error), &format!("{error:#}"));
            }
        }
    }
}

/// Which of the two servers an error speaks of.
fn dependency(error: &anyhow::Error) -> &'static str {
    match error.downcast_ref::<sqlx::Error>().map(failure) {
        Some(Failure::Away | Failure::Conflict | Failure::Fault) => "postgres",
        None => "streams",
    }
}

fn names(cx: &Context) -> Vec<String> {
    cx.topology.streams.keys().cloned().collect()
}

/// One round: what was lost since the last marks is healed, then new marks are noted.
async fn compare(cx: &Context, duty: &Duty) -> anyhow::Result<()> {
    let names = names(cx);
    // Before the streams are looked at: what is written meanwhile counts as later than the mark.
    let (now, before) = marks::read(&cx.postgres, &names).await?;
    let mut found = BTreeMap::new();
    let mut plan = Plan::default();
    let mut started_again = Vec::new();
    for name in &names {
        let mark = before.get(name);
        let stream = marks::look(cx, name, now).await?;
        duty.went_round();
        let one_server = cx.topology.streams[name].get("num_replicas").is_none_or(|n| n == 1);
        let loss = marks::loss(mark, &stream, one_server);
        if let Some(loss) = loss.filter(|loss| loss.counts_for(name)) {
            match loss {
                Loss::ServerStarted => started_again.push(name.as_str()),
                _ => report(cx, name, loss, mark),
            }
            plan.add(name, loss, &stream, mark, now);
        }
        found.insert(name.clone(), stream);
    }
    if !started_again.is_empty() {
        cx.metrics.server_restarts.inc();
        let streams = started_again.join(" ");
        let what = "server started again: what is newest is checked";
        tracing::info!(worker = %cx.worker, streams, "{what}");
    }
    if !plan.is_empty() {
        let started = Instant::now();
        cx.fail.point("cache-verifier.before_heal").await;
        let mut heal = Heal::new(cx, LEASE, duty);
        // Writers wait for buckets; what they write meanwhile is not lost again. Their canaries are
        // there before anything is brought back, and so tell of another purge in between.
        for (name, found) in &mut found {
            if matches!(found, Found::Nothing) && name != "EVENTS" {
                heal.make(name).await?;
                *found = marks::look(cx, name, now).await?;
            }
        }
        heal.run(&plan).await?;
        cx.fail.point("cache-verifier.after_heal").await;
        let seconds = started.elapsed().as_secs_f64();
        tracing::info!(worker = %cx.worker, seconds, "all that may be lost is noted or made again");
        for (name, found) in &mut found {
            if matches!(found, Found::Nothing) {
                *found = marks::look(cx, name, now).await?;
            }
        }
    }
    let marks: Vec<(&str, &Mark)> = found
        .iter()
        .filter_map(|(name, found)| match found {
            Found::Stream(mark) => Some((name.as_str(), mark)),
            Found::Nothing => None,
        })
        .collect();
    Ok(marks::note(&cx.postgres, &marks, now).await?)
}

fn report(cx: &Context, stream: &str, loss: Loss, mark: Option<&Mark>) {
    cx.metrics.heals.with_label_values(&[stream, loss.as_str()]).inc();
    let (worker, loss) = (cx.worker, loss.as_str());
    let since = mark.map(|mark| mark.noted_at.to_string());
    match stream {
        // What was in them nobody else has.
        "COMMANDS" | "DLQ" => {
            tracing::error!(%worker, stream, loss, since, "what the stream held is gone for good");
        }
        _ => tracing::warn!(%worker, stream, loss, since, "loss found"),
    }
}

/// Audits a page a second, under the lease, until the drain.
async fn keep_auditing(cx: Context, audit: Arc<Mutex<Audit>>, duty: Arc<Duty>) {
    // Held by one that panicked until its task is gone.
    let mut audit = audit.lock().await;
    let mut fitness = Fitness::default();
    let mut tick = interval(RENEW);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut next = Instant::now();
    let mut pauses = false;
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            () = cx.drain.cancelled() => return,
        }
        let round = async {
            let mine = Lease::hold(&cx, AUDIT_LEASE, &fitness).await?;
            if mine && Instant::now() >= next {
                next = Instant::now() + EVERY;
                audit.next_page(&cx, &duty).await?;
                fitness.works();
            }
            anyhow::Ok(())
        };
        if let Err(error) = round.await {
            if dependency(&error) == "streams" {
                fitness.fails();
            }
            duty.went_round();
            let error = format!("{error:#}");
            // Said once in an outage: the other duty tells of servers that are away.
            if !std::mem::replace(&mut pauses, true) {
                tracing::warn!(worker = %cx.worker, error, "the audit pauses");
            }
        } else {
            pauses = false;
            duty.moved();
        }
    }
}
