//! The watch on the bucket `active_orders`: keeps rows in memory warm, for all tenants.
//!
//! It runs in a task of its own, and no query waits for it: an answer takes from memory only rows
//! of exactly the confirmed versions, so a watch that is late, lost or wrong costs reads of SQL and
//! nothing else. Parts are merged one by one, if they are newer; a part that this build would not
//! write is ignored. The row of an order that has ended stays until its time in memory is over, for
//! clients that ask what has changed.
//!
//! The watchdog: a watch that ended, is silent for two heartbeats of the server, skipped a message
//! or lost its connection is opened again, after the last revision that it brought if the stream is
//! still the same and, where it has no replicas, the server has not been started again (a crash
//! takes the newest revisions, and they are given out again); else from the start.

use std::{
    convert::Infallible,
    sync::Arc,
    time::{Duration, Instant},
};

use async_nats::jetstream::{
    Message,
    consumer::{AckPolicy, DeliverPolicy, push},
};
use brigade_contracts::key::{Bucket, parse_active_order};
use futures::{StreamExt, stream::ReadyChunks};
use time::OffsetDateTime;
use tokio_util::task::AbortOnDropHandle;

use super::{row::RowParts, rows::OrderRows};
use crate::{
    infra::{Context, unstamp},
    runtime::supervise::supervise,
    workers::edge::metrics::{EdgeMetrics, WatchLoss, WatchedRow},
};

/// The interval of the server's heartbeats. After two of them without a message the watch is lost.
const HEARTBEAT: Duration = Duration::from_millis(500);
/// Pause before a watch is opened again, so that one that is always refused costs little.
const PAUSE: Duration = Duration::from_millis(50);
/// The most messages that are merged together.
const MAX_BATCH: usize = 256;

/// Starts the watch; it ends with its handle.
pub fn start(
    cx: &Context,
    rows: &Arc<OrderRows>,
    metrics: &Arc<EdgeMetrics>,
) -> AbortOnDropHandle<()> {
    let (cx, rows, metrics) = (cx.clone(), rows.clone(), metrics.clone());
    supervise("the watch on active orders", move || {
        let (cx, rows, metrics) = (cx.clone(), rows.clone(), metrics.clone());
        let lost_since = Some(Instant::now());
        async move { RowWatch { cx, rows, metrics, progress: None, lost_since }.run().await }
    })
}

struct RowWatch {
    cx: Context,
    rows: Arc<OrderRows>,
    metrics: Arc<EdgeMetrics>,
    progress: Option<WatchProgress>,
    /// Memory may lack something that the bucket has since then.
    lost_since: Option<Instant>,
}

/// The last revision that was read, and the stream and the server that gave it.
struct WatchProgress {
    created: OffsetDateTime,
    server_id: String,
    revision: u64,
}

impl WatchProgress {
    /// Returns true if the stream continues after the last revision: the stream is the same, and
    /// its only server was not started again.
    fn continues_in(&self, created: OffsetDateTime, server_id: &str, one_server: bool) -> bool {
        self.created == created && (!one_server || self.server_id == server_id)
    }
}

/// The error that ended a watch.
struct WatchError {
    loss: WatchLoss,
    error: String,
}

impl WatchError {
    fn new(loss: WatchLoss, error: impl ToString) -> Self {
        Self { loss, error: error.to_string() }
    }

    fn refused(error: impl ToString) -> Self {
        Self::new(WatchLoss::Refused, error)
    }
}

impl RowWatch {
    async fn run(mut self) {
        loop {
            let nats = self.cx.nats.clone();
            let WatchError { loss, error } = tokio::select! {
                // First, so that it counts connections before the server is asked anything.
                biased;
                () = nats.reconnected() => {
                    WatchError::new(WatchLoss::Connection, "connected again")
                }
                Err(error) = self.follow() => error,
            };
            let why = loss.as_str();
            if self.lost_since.is_none() {
                tracing::warn!(why, error, "the watch on active orders was lost, reopening it");
                self.metrics.list_watch_lost.with_label_values(&[why]).inc();
                self.lost_since = Some(Instant::now());
            } else {
                tracing::debug!(why, error, "the watch on active orders cannot be opened yet");
            }
            self.metrics.list_watch_lag.set(-1);
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Merges what the bucket has and gets, until the watch is lost.
    async fn follow(&mut self) -> Result<Infallible, WatchError> {
        let (mut messages, mut pending) = self.open().await?;
        let mut sequence = 0;
        self.record_pending(pending);
        while let Some(batch) = messages.next().await {
            self.cx.fail.point("edge.before_list_push").await;
            for message in batch {
                let message = message.map_err(|error| WatchError::new(WatchLoss::Silent, error))?;
                let info = message.info().map_err(WatchError::refused)?;
                sequence += 1;
                if info.consumer_sequence != sequence {
                    return Err(WatchError::new(WatchLoss::Gap, "a message was skipped"));
                }
                self.merge(&message);
                self.metrics.list_watch_revision.set(info.stream_sequence.cast_signed());
                pending = info.pending;
                if let Some(progress) = &mut self.progress {
                    progress.revision = info.stream_sequence;
                }
            }
            self.record_pending(pending);
        }
        Err(WatchError::new(WatchLoss::Ended, "no more messages"))
    }

    /// Creates a consumer of all revisions after the last one that was read. Returns its messages,
    /// in batches, and how many it has still to deliver.
    async fn open(&mut self) -> Result<(ReadyChunks<push::Messages>, u64), WatchError> {
        let nats = &self.cx.nats;
        let server_id = nats.client.server_info().server_id;
        let name = Bucket::ActiveOrders.stream();
        let one_server = self.cx.topology.streams[&name].get("num_replicas").is_none_or(|n| n == 1);
        let stream = nats.jetstream.get_stream(&name).await.map_err(WatchError::refused)?;
        let created = stream.cached_info().created;
        let progress = self.progress.take();
        let progress = progress.filter(|p| p.continues_in(created, &server_id, one_server));
        let revision = progress.map_or(0, |progress| progress.revision);
        self.progress = Some(WatchProgress { created, server_id, revision });
        let config = push::Config {
            description: Some("edge: keeps the rows of lists warm".to_owned()),
            deliver_subject: nats.client.new_inbox(),
            deliver_policy: match revision {
                0 => DeliverPolicy::All,
                _ => DeliverPolicy::ByStartSequence { start_sequence: revision + 1 },
            },
            ack_policy: AckPolicy::None,
            flow_control: true,
            idle_heartbeat: HEARTBEAT,
            memory_storage: true,
            num_replicas: 1,
            ..Default::default()
        };
        let consumer = stream.create_consumer(config).await.map_err(WatchError::refused)?;
        let messages = consumer.messages().await.map_err(WatchError::refused)?;
        Ok((messages.ready_chunks(MAX_BATCH), consumer.cached_info().num_pending))
    }

    fn merge(&self, message: &Message) {
        let result = if message.payload.is_empty() {
            WatchedRow::Gone
        } else {
            let key = parse_active_order(&message.subject);
            let read = key.and_then(|(order, part)| {
                let (era, value) = unstamp(&message.payload);
                let value = Some(value).filter(|_| era == self.cx.era)?;
                let (parts, at) = RowParts::read_part(&order, part, &value)?;
                Some((order, parts, at))
            });
            match read.map(|(order, parts, at)| (self.rows.merge(&order, &parts), at)) {
                None => WatchedRow::Refused,
                Some((None, _)) => WatchedRow::Known,
                Some((Some(RowParts { row: None, .. }), _)) => WatchedRow::Half,
                Some((Some(_), at)) => {
                    // Rows that come after a loss have been read from SQL long since.
                    if self.lost_since.is_none() {
                        self.metrics.record_displayed(at);
                    }
                    WatchedRow::Row
                }
            }
        };
        self.metrics.list_watched.with_label_values(&[result.as_str()]).inc();
    }

    /// Records how many revisions are still to come. With none, the watch has recovered.
    fn record_pending(&mut self, revisions: u64) {
        let metrics = &self.metrics;
        metrics.list_watch_lag.set(revisions.cast_signed());
        if revisions == 0
            && let Some(since) = self.lost_since.take()
        {
            let seconds = since.elapsed().as_secs_f64();
            tracing::info!(seconds, "the watch on active orders is up to date");
            metrics.list_watch_recovery_seconds.with_label_values::<&str>(&[]).observe(seconds);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_goes_on_in_the_same_stream_of_a_server_that_lost_nothing() {
        let (first, second) = (OffsetDateTime::UNIX_EPOCH, OffsetDateTime::UNIX_EPOCH + PAUSE);
        let progress = WatchProgress { created: first, server_id: "a".to_owned(), revision: 7 };
        for (created, server_id, one_server, goes_on) in [
            (first, "a", true, true),
            (first, "b", true, false),
            (second, "a", true, false),
            (first, "b", false, true),
            (second, "b", false, false),
        ] {
            let continues = progress.continues_in(created, server_id, one_server);
            assert_eq!(continues, goes_on, "{created} {server_id} {one_server}");
        }
    }
}
