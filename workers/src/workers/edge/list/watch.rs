//! The watch on the bucket `active_orders`: keeps rows in memory warm, for all tenants.
//!
//! It runs in a task of its own, and nobody waits for it: an answer takes from memory only what is
//! of exactly the confirmed versions, so a watch that is late, lost or wrong costs reads of SQL
//! and nothing else. What it brings is taken part by part, and only what is newer; what this build
//! would not write is left alone. The row of an order that has ended stays, for those who ask what
//! has changed, until its time in memory is over.
//!
//! The watchdog: a watch that ended, is silent for two heartbeats of the server, skipped a message
//! or lost its connection is made again, after the last revision that it brought if the stream is
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

use super::{row::Known, rows::Rows};
use crate::{infra::Context, runtime::supervise::supervise};

/// How often the server says that there is nothing to say. Twice of it is silence.
const HEARTBEAT: Duration = Duration::from_millis(500);
/// Pause before a watch is made again, so that one that is always refused costs little.
const PAUSE: Duration = Duration::from_millis(50);
/// Most messages that are taken together.
const BATCH: usize = 256;

/// Starts the watch; it ends with its handle.
pub fn start(cx: &Context, rows: &Arc<Rows>) -> AbortOnDropHandle<()> {
    let (cx, rows) = (cx.clone(), rows.clone());
    supervise("the watch on active orders", move || {
        let (cx, rows) = (cx.clone(), rows.clone());
        async move { Watch { cx, rows, place: None, lost: Some(Instant::now()) }.run().await }
    })
}

struct Watch {
    cx: Context,
    rows: Arc<Rows>,
    place: Option<Place>,
    /// Since when memory may lack something that the bucket has.
    lost: Option<Instant>,
}

/// How far a stream was read.
struct Place {
    created: OffsetDateTime,
    server_id: String,
    revision: u64,
}

impl Place {
    /// Whether the revisions after it are still those that come after it.
    fn is_in(&self, created: OffsetDateTime, server_id: &str, one_server: bool) -> bool {
        self.created == created && (!one_server || self.server_id == server_id)
    }
}

/// Why a watch has to be made again.
struct Lost {
    why: &'static str,
    error: String,
}

impl Lost {
    fn new(why: &'static str, error: impl ToString) -> Self {
        Self { why, error: error.to_string() }
    }

    fn refused(error: impl ToString) -> Self {
        Self::new("refused", error)
    }
}

impl Watch {
    async fn run(mut self) {
        loop {
            let nats = self.cx.nats.clone();
            let lost = tokio::select! {
                // First, so that it counts connections before the server is asked anything.
                biased;
                () = nats.reconnected() => Lost::new("connection", "connected again"),
                Err(lost) = self.follow() => lost,
            };
            let Lost { why, error } = lost;
            if self.lost.is_none() {
                tracing::warn!(why, error, "the watch on active orders is made again");
                self.cx.metrics.list_watch_lost.with_label_values(&[why]).inc();
                self.lost = Some(Instant::now());
            } else {
                tracing::debug!(why, error, "no watch on active orders yet");
            }
            self.cx.metrics.list_watch_lag.set(-1);
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Takes what the bucket has and gets, until the watch is lost.
    async fn follow(&mut self) -> Result<Infallible, Lost> {
        let (mut messages, mut pending) = self.open().await?;
        let mut sequence = 0;
        self.has_still_to_come(pending);
        while let Some(batch) = messages.next().await {
            self.cx.fail.point("edge.before_list_push").await;
            for message in batch {
                let message = message.map_err(|error| Lost::new("silent", error))?;
                let info = message.info().map_err(Lost::refused)?;
                sequence += 1;
                if info.consumer_sequence != sequence {
                    return Err(Lost::new("gap", "a message was skipped"));
                }
                self.take(&message);
                self.cx.metrics.list_watch_revision.set(info.stream_sequence.cast_signed());
                pending = info.pending;
                if let Some(place) = &mut self.place {
                    place.revision = info.stream_sequence;
                }
            }
            self.has_still_to_come(pending);
        }
        Err(Lost::new("ended", "no more messages"))
    }

    /// A consumer that brings what comes after the last revision that was brought, and how much
    /// that is now.
    async fn open(&mut self) -> Result<(ReadyChunks<push::Messages>, u64), Lost> {
        let nats = &self.cx.nats;
        let server_id = nats.client.server_info().server_id;
        let name = Bucket::ActiveOrders.stream();
        let one_server = self.cx.topology.streams[&name].get("num_replicas").is_none_or(|n| n == 1);
        let stream = nats.jetstream.get_stream(&name).await.map_err(Lost::refused)?;
        let created = stream.cached_info().created;
        let place = self.place.take().filter(|p| p.is_in(created, &server_id, one_server));
        let revision = place.map_or(0, |place| place.revision);
        self.place = Some(Place { created, server_id, revision });
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
        let consumer = stream.create_consumer(config).await.map_err(Lost::refused)?;
        let messages = consumer.messages().await.map_err(Lost::refused)?;
        Ok((messages.ready_chunks(BATCH), consumer.cached_info().num_pending))
    }

    fn take(&self, message: &Message) {
        let metrics = &self.cx.metrics;
        let what = if message.payload.is_empty() {
            "gone"
        } else {
            let of = parse_active_order(&message.subject);
            let read = of.and_then(|(order, part)| {
                let (known, at) = Known::read(&order, part, &message.payload)?;
                Some((order, known, at))
            });
            match read.map(|(order, known, at)| (self.rows.keep(&order, &known), at)) {
                None => "refused",
                Some((None, _)) => "known",
                Some((Some(Known { row: None, .. }), _)) => "half",
                Some((Some(_), at)) => {
                    // What is brought after a loss has been displayed from SQL long since.
                    if self.lost.is_none() {
                        metrics.displayed(at);
                    }
                    "row"
                }
            }
        };
        metrics.list_watched.with_label_values(&[what]).inc();
    }

    fn has_still_to_come(&mut self, revisions: u64) {
        let metrics = &self.cx.metrics;
        metrics.list_watch_lag.set(revisions.cast_signed());
        if revisions == 0
            && let Some(since) = self.lost.take()
        {
            let seconds = since.elapsed().as_secs_f64();
            tracing::info!(seconds, "the watch on active orders has brought everything");
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
        let place = Place { created: first, server_id: "a".to_owned(), revision: 7 };
        for (created, server_id, one_server, goes_on) in [
            (first, "a", true, true),
            (first, "b", true, false),
            (second, "a", true, false),
            (first, "b", false, true),
            (second, "b", false, false),
        ] {
            let is_in = place.is_in(created, server_id, one_server);
            assert_eq!(is_in, goes_on, "{created} {server_id} {one_server}");
        }
    }
}
