//! Compares the streams with their checkpoints each second, and has losses healed.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use brigade_contracts::planted::PlantedBug;
use time::OffsetDateTime;
use tokio::time::Instant;

use super::{
    STREAMS, VerifierMetrics,
    checkpoints::{self, ObservedStream, StreamCheckpoint, StreamLoss, detect_loss, observe},
    era, failed_dependency,
    heal::{HealPlan, Healer},
};
use crate::infra::{Context, health::POSTGRES, lease::LeasedRounds};

const LEASE: &str = "cache-verifier.checkpoints";
/// The time between two comparisons of the streams with their checkpoints.
const PERIOD: Duration = Duration::from_secs(1);
/// The time between two deletions of checkpoints older than a day.
const CLEANUP_PERIOD: Duration = Duration::from_secs(60);

type ObservedStreams = BTreeMap<String, ObservedStream>;

/// Watches the streams, under the lease, until the drain. Errors pause it: the next round begins
/// with the same checkpoints.
pub async fn watch_streams(cx: &Context, metrics: &VerifierMetrics) {
    let mut rounds = LeasedRounds::new(cx, LEASE, cx.health.duty("stream checkpoints"))
        .every(PERIOD)
        .reporting(&[POSTGRES, STREAMS]);
    metrics.expect_losses(cx.topology.streams.keys());
    let mut cleanup = Instant::now();
    while rounds.begin().await {
        let round = async {
            let reset = era::is_to_reset(cx).await?;
            // Where they cannot be emptied, what the other streams lose is healed all the same.
            let emptied = if reset { era::empty_buckets(cx).await } else { Ok(()) };
            compare(cx, metrics, &mut rounds, reset && emptied.is_ok()).await?;
            emptied?;
            if reset {
                era::record_reset(cx).await?;
            }
            if Instant::now() >= cleanup {
                cleanup = Instant::now() + CLEANUP_PERIOD;
                checkpoints::delete_old(&cx.postgres, &declared_streams(cx)).await?;
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

/// Heals what was lost since the last checkpoints, and all buckets after a `reset`, then saves new
/// checkpoints.
async fn compare(
    cx: &Context,
    metrics: &VerifierMetrics,
    rounds: &mut LeasedRounds,
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
    if !plan.is_empty() {
        heal(cx, metrics, rounds, &plan, &mut observed, now).await?;
    }
    let checkpoints: Vec<(&str, &StreamCheckpoint)> = observed
        .iter()
        .filter_map(|(stream, found)| match found {
            ObservedStream::Present(checkpoint) => Some((stream.as_str(), checkpoint)),
            ObservedStream::Absent => None,
        })
        .collect();
    Ok(checkpoints::save(&cx.postgres, &checkpoints, now).await?)
}

/// Reports each loss, and plans what has to be healed.
fn plan_heal(
    cx: &Context,
    metrics: &VerifierMetrics,
    before: &HashMap<String, StreamCheckpoint>,
    observed: &ObservedStreams,
    now: OffsetDateTime,
    reset: bool,
) -> HealPlan {
    let mut plan = HealPlan::default();
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
    }
    if !restarted.is_empty() {
        metrics.server_restarts.inc();
        let streams = restarted.join(" ");
        tracing::info!(
            worker = %cx.worker, streams,
            "nats-server was restarted: what changed since the last checkpoint is healed"
        );
    }
    plan
}

async fn heal(
    cx: &Context,
    metrics: &VerifierMetrics,
    rounds: &mut LeasedRounds,
    plan: &HealPlan,
    observed: &mut ObservedStreams,
    now: OffsetDateTime,
) -> anyhow::Result<()> {
    let started = Instant::now();
    cx.fail.point("cache-verifier.before_heal").await;
    let mut healer = Healer::new(cx, metrics, rounds);
    // Writers wait for buckets; what they write meanwhile is not lost again. Their canaries are
    // there before anything is brought back, and so reveal another purge in between.
    for (stream, found) in &mut *observed {
        if matches!(found, ObservedStream::Absent) && stream != "EVENTS" {
            healer.create_stream(stream).await?;
            *found = observe(cx, metrics, stream, now).await?;
        }
    }
    if !PlantedBug::NothingHealed.is_planted() {
        healer.run(plan).await?;
    }
    cx.fail.point("cache-verifier.after_heal").await;
    let seconds = started.elapsed().as_secs_f64();
    tracing::info!(
        worker = %cx.worker, seconds,
        "healing is done: the rest is up to command-handler, outbox-relay and the projectors"
    );
    for (stream, found) in observed {
        if matches!(found, ObservedStream::Absent) {
            *found = observe(cx, metrics, stream, now).await?;
        }
    }
    Ok(())
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
