//! Where messages come from: pulls of a durable consumer, and core requests.

use std::{sync::Arc, time::Duration};

use async_nats::jetstream::{
    consumer::{PullConsumer, pull},
    response::Response,
};
use futures::StreamExt;
use tokio::{
    sync::{Semaphore, mpsc},
    time::sleep,
};

use super::{MAX_BATCH, MAX_IN_HAND, Source};
use crate::runtime::{Context, Delivery, requests::stop_taking};

/// How long one pull stays open. A drain waits for it, so that nothing that the server has
/// already sent is lost and delivered again.
const PULL_EXPIRES: Duration = Duration::from_secs(1);

type Sender = mpsc::Sender<Delivery>;

/// Receives until the drain; the messages carry the number of their source.
/// A permit of `opened` says that the source is open.
pub(super) async fn receive(
    cx: Context,
    source: Source,
    number: usize,
    sender: Sender,
    opened: Arc<Semaphore>,
) {
    match source {
        Source::Stream(stream) => pull_from(&cx, stream, number, &sender, &opened).await,
        Source::Requests(subject) => listen_to(&cx, subject, number, &sender, &opened).await,
    }
}

/// Pulls from the worker's durable consumer until the drain.
async fn pull_from(
    cx: &Context,
    stream: &'static str,
    number: usize,
    sender: &Sender,
    opened: &Semaphore,
) {
    let permits = Arc::new(Semaphore::new(MAX_IN_HAND));
    let mut consumer = None;
    let mut told = false;
    while !cx.drain.is_cancelled() {
        let pulled = async {
            let consumer = match &mut consumer {
                Some(consumer) => consumer,
                None => consumer.insert(durable(cx, stream).await?),
            };
            if !told {
                told = true;
                opened.add_permits(1);
            }
            pull_once(cx, number, sender, &permits, consumer).await
        };
        if let Err(error) = pulled.await {
            // The stream or the consumer may be gone, or the server: look again from the start.
            cx.health.away("stream", &format!("{stream}: {error:#}"));
            consumer = None;
            sleep(Duration::from_millis(100)).await;
        } else {
            cx.health.back("stream");
        }
    }
}

async fn pull_once(
    cx: &Context,
    number: usize,
    sender: &Sender,
    permits: &Arc<Semaphore>,
    consumer: &PullConsumer,
) -> anyhow::Result<()> {
    // Waits for room first: what is pulled without room would use up its time.
    let first = tokio::select! {
        permit = permits.clone().acquire_owned() => permit?,
        () = cx.drain.cancelled() => return Ok(()),
    };
    let more = permits.available_permits().min(MAX_BATCH - 1);
    let mut room = vec![first];
    room.extend((0..more).map_while(|_| permits.clone().try_acquire_owned().ok()));
    let mut messages =
        consumer.batch().max_messages(room.len()).expires(PULL_EXPIRES).messages().await?;
    loop {
        let message = tokio::select! {
            message = messages.next() => message,
            () = cx.nats.reconnected() => None,
        };
        let Some(message) = message else { return Ok(()) };
        let message = message.map_err(|error| anyhow::anyhow!(error))?;
        let Some(permit) = room.pop() else { return Ok(()) };
        sender.send(Delivery::stored(message, number, permit)?).await?;
    }
}

/// The worker's durable consumer, made from the topology if it is not there (any more). One that
/// is there stays as it is: changing it is for `provision`.
async fn durable(cx: &Context, stream: &str) -> anyhow::Result<PullConsumer> {
    let (js, durable) = (&cx.nats.jetstream, cx.worker.as_str());
    let handle = js.get_stream_no_info(stream).await?;
    if let Ok(consumer) = handle.get_consumer::<pull::Config>(durable).await {
        return Ok(consumer);
    }
    let config = cx.topology.consumer(stream, durable);
    let request = serde_json::json!({ "stream_name": stream, "config": config });
    let created: Response<serde_json::Value> =
        js.request(format!("CONSUMER.CREATE.{stream}.{durable}"), &request).await?;
    if let Response::Err { error } = created {
        anyhow::bail!("cannot make the consumer {durable}: {error}");
    }
    handle.get_consumer::<pull::Config>(durable).await.map_err(|error| anyhow::anyhow!(error))
}

/// Listens to requests until the drain, then takes those that were already on their way.
async fn listen_to(
    cx: &Context,
    subject: &'static str,
    number: usize,
    sender: &Sender,
    opened: &Semaphore,
) {
    let group = cx.worker.to_string();
    let mut requests = match cx.nats.client.queue_subscribe(subject, group).await {
        Ok(requests) => requests,
        // The worker ends, and is started again.
        Err(error) => return cx.health.away("requests", &error.to_string()),
    };
    cx.health.back("requests");
    // Ready only when the server knows of it: another instance may be about to leave.
    cx.nats.round_trip().await;
    opened.add_permits(1);
    let mut taking = true;
    loop {
        tokio::select! {
            request = requests.next() => match request {
                Some(request) => {
                    if sender.send(Delivery::request(request, number)).await.is_err() {
                        return;
                    }
                }
                None => return,
            },
            () = cx.drain.cancelled(), if taking => {
                taking = false;
                stop_taking(&mut requests, cx.nats.round_trip()).await;
            }
        }
    }
}
