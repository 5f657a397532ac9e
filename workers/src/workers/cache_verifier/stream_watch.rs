//! Compares the streams with their checkpoints each second, and has losses healed.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use brigade_contracts::planted::PlantedBug;
use sqlx::Connection;
use time::OffsetDateTime;
use tokio::time::Instant;

use super::{
    STREAMS, VerifierMetrics,
    checkpoints::{self, ObservedStream, StreamCheckpoint, StreamLoss, detect_loss, observe},
    era, failed_dependency,
    heal::{self, HealPlan, HealStep},
};
use crate::infra::{Context, health::POSTGRES, lease::LeasedRounds, postgres::bounded};

const LEASE: &str = "cache-verifier.checkpoints";
/// The time between two comparisons of the streams with their checkpoints.
const PERIOD: Duration = Duration::from_secs(1);
/// The time between two deletions of checkpoints older than a day.
const CLEANUP_PERIOD: Duration = Duration::from_secs(60);

/// An instance that has not compared for so long shows nothing: another one does.
const STALE: Duration = Duration::from_secs(10);

type ObservedStreams = BTreeMap<String, ObservedStream>;

/// Watches the streams, under the lease, until the drain. Errors pause it: the next round begins
/// with the same checkpoints.
pub async fn watch_streams(cx: &Context, metrics: &VerifierMetrics) {
    let mut rounds = LeasedRounds::new(cx, LEASE, cx.health.duty("stream checkpoints"))
        .every(PERIOD)
        .reporting(&[POSTGRES, STREAMS]);
    metrics.expect_losses(cx.topology.streams.keys());
    let mut cleanup = Instant::now();
    while rounds.begin_or_forget(STALE, || metrics.stream_filled.reset()).await {
        let round = async {
            let reset = era::is_to_reset(cx).await?;
            // Where they cannot be emptied, what the other streams lose is healed all the same.
            let emptied = if reset { era::empty_buckets(cx).await } else { Ok(()) };
            compare(cx, metrics, &rounds, reset && emptied.is_ok()).await?;
            emptied?;
            if reset {
                era::record_reset(cx).await?;
            }
            if Instant::now() >= cleanup {
                cleanup = Instant::now() + CLEANUP_PERIOD;
                checkpoints::delete_old(&cx.postgres, &declared_streams(cx)).await?;
                heal::delete_old(&cx.postgres).await?;
            }
            anyhow::Ok(())
        };
        match round.await {
            Ok(()) => rounds.succeeded(),
            Err(error) => rounds.failed(failed_dependency(&error), &format!("{error:#}")),
        }
    }
}

fn declared_streams(cx: &Context) -> Vec<String> {
    cx.topology.streams.keys().cloned().collect()
}

/// Plans to heal what was lost since the last checkpoints, and all buckets after a `reset`, and saves
/// new checkpoints with that plan: the loss shows in one or the other.
async fn compare(
    cx: &Context,
    metrics: &VerifierMetrics,
    rounds: &LeasedRounds,
    reset: bool,
) -> anyhow::Result<()> {
    let streams = declared_streams(cx);
    // Before the streams are observed: what is written meanwhile counts as later than the
    // checkpoint.
    let (now, before) = checkpoints::load_latest(&cx.postgres, &streams).await?;
    let mut observed = ObservedStreams::new();
    for stream in streams {
        let found = observe(cx, metrics, &stream, now).await?;
        rounds.duty().went_round();
        observed.insert(stream, found);
    }
    let plan = plan_heal(cx, metrics, &before, &observed, now, reset);
    if plan.is_some() {
        cx.fail.point("cache-verifier.before_heal").await;
    }
    // Writers wait for them; what they write meanwhile is not lost again. The canaries of buckets
    // are there before anything is brought back, and so reveal another purge in between.
    for (stream, found) in &mut observed {
        if matches!(found, ObservedStream::Absent) {
            heal::create_stream(cx, stream).await?;
            *found = observe(cx, metrics, stream, now).await?;
        }
    }
    let (reason, steps) = match &plan {
        Some(plan) if !PlantedBug::NothingHealed.is_planted() => {
            (plan.reason(), steps(cx, plan).await?)
        }
        _ => (String::new(), Vec::new()),
    };
    let checkpoints: Vec<(&str, &StreamCheckpoint)> = observed
        .iter()
        .filter_map(|(stream, found)| match found {
            ObservedStream::Present(checkpoint) => Some((stream.as_str(), checkpoint)),
            ObservedStream::Absent => None,
        })
        .collect();
    let saved = bounded(&cx.postgres, async |connection| {
        let mut tx = connection.begin().await?;
        if !steps.is_empty() {
            heal::add(&mut tx, &reason, &steps, false).await?;
        }
        checkpoints::save(&mut tx, &checkpoints, now).await?;
        tx.commit().await
    });
    Ok(saved.await?)
}

/// Returns the steps of a plan, which speak of the events that are there now.
async fn steps(cx: &Context, plan: &HealPlan) -> sqlx::Result<Vec<HealStep>> {
    let changed = match plan.changed_since() {
        Some(since) => Some(heal::range_since(cx, since).await?),
        None => None,
    };
    let replay = match plan.event_replay() {
        Some(replay) => Some(heal::range_since(cx, replay.since).await?),
        None => None,
    };
    Ok(plan.steps(changed, replay))
}

/// Reports each loss, and plans what has to be healed; `None` if nothing was lost.
fn plan_heal(
    cx: &Context,
    metrics: &VerifierMetrics,
    before: &HashMap<String, StreamCheckpoint>,
    observed: &ObservedStreams,
    now: OffsetDateTime,
    reset: bool,
) -> Option<HealPlan> {
    let (mut plan, mut is_lost) = (HealPlan::default(), false);
    let mut restarted = Vec::new();
    for (stream, found) in observed {
        let checkpoint = before.get(stream);
        let replicas = cx.topology.streams[stream].get("num_replicas");
        let one_server = replicas.is_none_or(|replicas| replicas == 1);
        let emptied = reset && era::is_emptied(stream);
        let loss = if emptied {
            Some(StreamLoss::Purged)
        } else {
            detect_loss(checkpoint, found, one_server)
        };
        let Some(loss) = loss.filter(|loss| loss.counts_for(stream)) else { continue };
        match loss {
            _ if emptied => {}
            StreamLoss::ServerRestarted => restarted.push(stream.as_str()),
            _ => {
                metrics.heals.with_label_values(&[stream, loss.as_str()]).inc();
                report(cx, stream, loss, checkpoint);
            }
        }
        plan.add_loss(stream, loss, found, checkpoint, now);
        is_lost = true;
    }
    if !restarted.is_empty() {
        metrics.server_restarts.inc();
        let streams = restarted.join(" ");
        tracing::info!(
            worker = %cx.worker, streams,
            "nats-server was restarted: what changed since the last checkpoint is healed"
        );
    }
    is_lost.then_some(plan)
}

fn report(cx: &Context, stream: &str, loss: StreamLoss, checkpoint: Option<&StreamCheckpoint>) {
    let (worker, loss) = (cx.worker, loss.as_str());
    let since = checkpoint.map(|checkpoint| checkpoint.taken_at.to_string());
    match stream {
        // Nobody else has what was in them.
        "COMMANDS" | "DLQ" => tracing::error!(
            %worker, stream, loss, since,
            "stream lost messages for good: they are nowhere else"
        ),
        _ => tracing::warn!(
            %worker, stream, loss, since,
            "stream lost messages: they are brought back from SQL"
        ),
    }
}
