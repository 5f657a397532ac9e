//! Pulls from a durable consumer.

use std::{sync::Arc, time::Duration};

use async_nats::jetstream::{consumer::pull, response::Response};
use serde_json::json;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout_at},
};
use tokio_util::sync::CancellationToken;

use super::{
    lane::Lane,
    limits::MAX_BATCH,
    subscribe::{Sender, subscribe},
};
use crate::{
    infra::{
        Context, Intake,
        intake::{IntakeSubscription, Message},
    },
    runtime::Delivery,
};

/// Longest time that one pull stays open. A drain waits for it, so that nothing that the server has
/// already sent is lost and delivered again.
const PULL_EXPIRES: Duration = Duration::from_secs(1);
/// Interval of the signs of life of a consumer that has nothing to send.
const PULL_HEARTBEAT: Duration = Duration::from_millis(300);
/// A consumer that is silent for this long has lost the pull, such as one whose leader has died
/// while the connection has not.
const PULL_SILENT: Duration = Duration::from_millis(700);

/// Most bytes that one pull brings. The server closes a connection for which more than its
/// `max_pending` (32 MB) wait to be read, and a worker has at most five pulls open at once. No
/// stream has messages as large.
const PULL_BYTES: usize = 4 * 1024 * 1024;
/// The ends of a pull that is bounded in bytes: the next message exceeds them, or it has brought as
/// many messages as were wanted.
const PULL_IS_FULL: [&[u8]; 2] =
    [b"NATS/1.0 409 Message Size Exceeds MaxBytes", b"NATS/1.0 409 Batch Completed"];

/// A durable consumer that is pulled from.
pub(super) struct PullConsumer {
    lane: Arc<Lane>,
    intake: Intake,
    messages: IntakeSubscription,
    /// The prefix of the subjects that the messages are sent to.
    inbox: String,
    /// The subject of the requests for messages.
    next: String,
    /// The number of pulls so far. The messages of each come under its own number.
    pulls: u64,
    /// The number of its source.
    source: usize,
}

/// The end of a pull.
#[derive(Debug, PartialEq)]
pub(super) enum PullEnd {
    /// It has expired, or brought as much as there was room for.
    Done,
    /// The consumer is silent.
    Silent,
    /// The consumer cannot be used, or not now.
    Refused(String),
}

impl PullConsumer {
    /// Subscribes to the messages of a consumer; `None` if the drain comes first.
    pub(super) async fn open(
        cx: &Context,
        intake: &Intake,
        lane: Arc<Lane>,
        source: usize,
    ) -> anyhow::Result<Option<Self>> {
        let Lane { stream, durable, .. } = *lane;
        let inbox = format!("{}.{stream}.{durable}", intake.inbox());
        let api = cx.nats.options().api_prefix();
        let messages = subscribe(cx, intake, &format!("{inbox}.*"), None).await?;
        Ok(messages.map(|messages| Self {
            messages,
            inbox,
            next: format!("{api}.CONSUMER.MSG.NEXT.{stream}.{durable}"),
            lane,
            intake: intake.clone(),
            pulls: 0,
            source,
        }))
    }

    /// Pulls once, as many messages as there are permits.
    ///
    /// # Errors
    /// If nothing can be received any more.
    pub(super) async fn pull(
        &mut self,
        drain: &CancellationToken,
        sender: &Sender,
        permits: &Arc<Semaphore>,
    ) -> anyhow::Result<PullEnd> {
        // Waits for room first: a pull without room would use up its time.
        let first = tokio::select! {
            permit = permits.clone().acquire_owned() => permit?,
            () = drain.cancelled() => return Ok(PullEnd::Done),
        };
        let more = permits.available_permits().min(MAX_BATCH - 1);
        let mut room = vec![first];
        room.extend((0..more).map_while(|_| permits.clone().try_acquire_owned().ok()));
        self.pulls += 1;
        let reply = format!("{}.{}", self.inbox, self.pulls);
        let request = json!({
            "batch": room.len(),
            "max_bytes": PULL_BYTES,
            "expires": PULL_EXPIRES.as_nanos(),
            "idle_heartbeat": PULL_HEARTBEAT.as_nanos(),
        });
        let mut connections = self.intake.connections();
        connections.mark_unchanged();
        self.intake.request(&self.next, &reply, &request.to_string());
        loop {
            let received = tokio::select! {
                next = timeout_at(Instant::now() + PULL_SILENT, self.messages.next()) => next,
                // A pull of the connection before gets no response any more.
                Ok(()) = connections.changed() => return Ok(PullEnd::Done),
            };
            let Ok(received) = received else { return Ok(PullEnd::Silent) };
            let received = received.ok_or_else(|| anyhow::anyhow!("the connection has died"))?;
            let (deliveries, end) = self.sort(received, &reply, &mut room);
            if !deliveries.is_empty() {
                self.lane.observe(&deliveries);
                sender.send(deliveries).await?;
            }
            if let Some(end) = end {
                return Ok(end);
            }
            if room.is_empty() {
                return Ok(PullEnd::Done);
            }
        }
    }

    /// Separates messages of the stream from status messages of the server.
    fn sort(
        &self,
        received: Vec<Message>,
        reply: &str,
        room: &mut Vec<OwnedSemaphorePermit>,
    ) -> (Vec<Delivery>, Option<PullEnd>) {
        let mut deliveries = Vec::with_capacity(received.len());
        let overtakes = self.lane.overtakes().is_some();
        let mut end = None;
        for message in received {
            // A status of the server can never be acknowledged; one of a sender is none.
            let status = message.reply.is_none().then(|| message.status()).flatten();
            let is_of_this_pull = message.subject == reply.as_bytes();
            let block = message.block.clone().unwrap_or_default();
            let is_full = PULL_IS_FULL.iter().any(|end| block.starts_with(end));
            match status {
                None => {
                    // A pull that was given up may bring more than there is room for.
                    let room = room.pop();
                    match Delivery::stored(message, self.source, room) {
                        Some(delivery) => deliveries.push(Delivery { overtakes, ..delivery }),
                        None => tracing::warn!(
                            next = self.next,
                            "received neither a message of the stream nor a status"
                        ),
                    }
                }
                Some(_) if !is_of_this_pull => {}
                // A sign of life.
                Some(100) => {}
                // Nothing came for as long as the pull was open.
                Some(404 | 408) => {
                    self.lane.set_idle();
                    end = Some(PullEnd::Done);
                }
                Some(_) if is_full => end = Some(PullEnd::Done),
                Some(status) => {
                    end = Some(PullEnd::Refused(format!("the pull ended with status {status}")));
                }
            }
        }
        (deliveries, end)
    }
}

/// Makes the worker's durable consumer from the topology if it does not exist (any more). An
/// existing one stays as it is: changing it is for `provision`. Returns how far the stream reaches
/// for it, which moves while messages are stored.
pub(super) async fn ensure_durable(cx: &Context, stream: &str) -> anyhow::Result<u64> {
    let (js, durable) = (&cx.nats.jetstream, cx.worker.as_str());
    let handle = js.get_stream_no_info(stream).await?;
    if let Ok(found) = handle.get_consumer::<pull::Config>(durable).await {
        let info = found.cached_info();
        return Ok(info.delivered.stream_sequence.saturating_add(info.num_pending));
    }
    let config = cx.topology.consumer(stream, durable);
    let request = json!({ "stream_name": stream, "config": config });
    let created: Response<serde_json::Value> =
        js.request(format!("CONSUMER.CREATE.{stream}.{durable}"), &request).await?;
    if let Response::Err { error } = created {
        anyhow::bail!("cannot make the consumer {durable}: {error}");
    }
    Ok(0)
}

#[cfg(test)]
mod tests;
