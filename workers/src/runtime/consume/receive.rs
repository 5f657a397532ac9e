//! Where messages come from: pulls of a durable consumer, and core requests.

use std::{sync::Arc, time::Duration};

use async_nats::jetstream::{consumer::pull, response::Response};
use serde_json::json;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    time::{Instant, sleep, timeout_at},
};
use tokio_util::sync::CancellationToken;

use super::{MAX_BATCH, MAX_IN_HAND, Source, lane::Lane};
use crate::{
    infra::{
        Context, Intake,
        intake::{Message, Subscription},
    },
    runtime::Delivery,
};

/// How long one pull stays open. A drain waits for it, so that nothing that the server has
/// already sent is lost and delivered again.
const PULL_EXPIRES: Duration = Duration::from_secs(1);
/// A consumer that has nothing to send says so this often.
const PULL_HEARTBEAT: Duration = Duration::from_millis(300);
/// A consumer that is silent for this long has lost the pull, such as one whose leader has died
/// while the connection has not.
const PULL_SILENT: Duration = Duration::from_millis(700);
/// A consumer that is there only at times is asked for at least this often: where the one that it
/// overtakes delivers nothing any more, nothing tells of a backlog.
const PROBED: Duration = Duration::from_secs(1);
/// Pause before a consumer that is there only at times is asked for again.
const THERE: Duration = Duration::from_millis(100);
/// Pulls in a row that nothing came of, not even a sign of life, until the consumer is looked for.
const MAX_SILENT: u32 = 2;

type Sender = mpsc::Sender<Vec<Delivery>>;

/// Receives until the drain; the messages carry the number of their source.
/// A permit of `opened` says that the source is open.
pub(super) async fn receive(
    cx: Context,
    intake: Intake,
    source: Source,
    number: usize,
    sender: Sender,
    opened: Arc<Semaphore>,
) {
    let brings = source.brings();
    let received = match source {
        Source::Stream(stream) => {
            let lane = Arc::new(Lane::new(stream, cx.worker.as_str()));
            pull_from(&cx, &intake, lane, number, &sender, &opened).await
        }
        Source::Lane(lane) if lane.overtakes().is_some() => {
            pull_at_times(&cx, &intake, lane, number, &sender, &opened).await
        }
        Source::Lane(lane) => pull_from(&cx, &intake, lane, number, &sender, &opened).await,
        Source::Requests(subject) => {
            listen_to(&cx, &intake, subject, number, &sender, &opened).await
        }
    };
    if let Err(error) = received {
        // Without its sources the worker ends, and is started again.
        cx.health.away(brings.name(), &format!("{error:#}"));
    }
}

/// A durable consumer, and how its messages come.
struct Pulls {
    lane: Arc<Lane>,
    intake: Intake,
    messages: Subscription,
    /// The prefix of where they come.
    inbox: String,
    /// Whom to ask for messages.
    next: String,
    /// Pulls so far; each is answered under its own number.
    pulls: u64,
    source: usize,
}

/// How a pull ended.
#[derive(Debug, PartialEq)]
enum Pulled {
    /// As it should.
    Done,
    /// The consumer is silent.
    Silent,
    /// The consumer cannot be used, or not now.
    Refused(String),
}

/// Pulls from the worker's durable consumer until the drain.
async fn pull_from(
    cx: &Context,
    intake: &Intake,
    lane: Arc<Lane>,
    source: usize,
    sender: &Sender,
    opened: &Semaphore,
) -> anyhow::Result<()> {
    let stream = lane.stream;
    let Some(mut pulls) = Pulls::open(cx, intake, lane, source).await? else { return Ok(()) };
    let permits = Arc::new(Semaphore::new(MAX_IN_HAND));
    let (mut there, mut told, mut silent) = (false, false, 0);
    while !cx.drain.is_cancelled() {
        if !there && let Err(error) = ensure_durable(cx, stream).await {
            // The stream may be gone, or the server.
            cx.health.away("stream", &format!("{stream}: {error:#}"));
            sleep(Duration::from_millis(100)).await;
            continue;
        }
        there = true;
        if !told {
            told = true;
            opened.add_permits(1);
        }
        let refused = match pulls.once(&cx.drain, sender, &permits).await? {
            Pulled::Done => {
                silent = 0;
                cx.health.back("stream");
                continue;
            }
            Pulled::Silent => {
                silent += 1;
                if silent < MAX_SILENT {
                    continue;
                }
                "no sign of life".to_owned()
            }
            Pulled::Refused(why) => why,
        };
        cx.health.away("stream", &format!("{stream}: {refused}"));
        there = false;
        sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}

/// Pulls until the drain from a consumer that is there only at times: from when the one that it
/// overtakes has a backlog, or delivers nothing any more, until it is gone.
async fn pull_at_times(
    cx: &Context,
    intake: &Intake,
    lane: Arc<Lane>,
    source: usize,
    sender: &Sender,
    opened: &Semaphore,
) -> anyhow::Result<()> {
    let Some(mut pulls) = Pulls::open(cx, intake, lane.clone(), source).await? else {
        return Ok(());
    };
    opened.add_permits(1);
    let permits = Arc::new(Semaphore::new(MAX_IN_HAND));
    while !cx.drain.is_cancelled() {
        if let Some(overtaken) = lane.overtakes() {
            tokio::select! {
                () = overtaken.backlogged() => {}
                () = sleep(PROBED) => {}
                () = cx.drain.cancelled() => return Ok(()),
            }
        }
        while !cx.drain.is_cancelled()
            && pulls.once(&cx.drain, sender, &permits).await? == Pulled::Done
        {}
        lane.set_idle();
        sleep(THERE).await;
    }
    Ok(())
}

impl Pulls {
    /// `None` where the drain comes first.
    async fn open(
        cx: &Context,
        intake: &Intake,
        lane: Arc<Lane>,
        source: usize,
    ) -> anyhow::Result<Option<Self>> {
        let Lane { stream, durable, .. } = *lane;
        let inbox = format!("{}.{stream}.{durable}", intake.inbox());
        let messages = subscribe(cx, intake, &format!("{inbox}.*"), None).await?;
        Ok(messages.map(|messages| Self {
            messages,
            inbox,
            next: format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.{durable}"),
            lane,
            intake: intake.clone(),
            pulls: 0,
            source,
        }))
    }

    /// # Errors
    /// Where nothing can be received any more.
    async fn once(
        &mut self,
        drain: &CancellationToken,
        sender: &Sender,
        permits: &Arc<Semaphore>,
    ) -> anyhow::Result<Pulled> {
        // Waits for room first: what is pulled without room would use up its time.
        let first = tokio::select! {
            permit = permits.clone().acquire_owned() => permit?,
            () = drain.cancelled() => return Ok(Pulled::Done),
        };
        let more = permits.available_permits().min(MAX_BATCH - 1);
        let mut room = vec![first];
        room.extend((0..more).map_while(|_| permits.clone().try_acquire_owned().ok()));
        self.pulls += 1;
        let reply = format!("{}.{}", self.inbox, self.pulls);
        let asked = json!({
            "batch": room.len(),
            "expires": PULL_EXPIRES.as_nanos(),
            "idle_heartbeat": PULL_HEARTBEAT.as_nanos(),
        });
        let mut connections = self.intake.connections();
        connections.mark_unchanged();
        self.intake.request(&self.next, &reply, &asked.to_string());
        loop {
            let came = tokio::select! {
                came = timeout_at(Instant::now() + PULL_SILENT, self.messages.next()) => came,
                // What was asked on the connection before is not answered any more.
                Ok(()) = connections.changed() => return Ok(Pulled::Done),
            };
            let Ok(came) = came else { return Ok(Pulled::Silent) };
            let came = came.ok_or_else(|| anyhow::anyhow!("the connection has died"))?;
            let (deliveries, ended) = self.sort(came, &reply, &mut room);
            if !deliveries.is_empty() {
                self.lane.note(&deliveries);
                sender.send(deliveries).await?;
            }
            if let Some(ended) = ended {
                return Ok(ended);
            }
            if room.is_empty() {
                return Ok(Pulled::Done);
            }
        }
    }

    /// Tells messages of the stream from what the server says of this pull.
    fn sort(
        &self,
        came: Vec<Message>,
        reply: &str,
        room: &mut Vec<OwnedSemaphorePermit>,
    ) -> (Vec<Delivery>, Option<Pulled>) {
        let mut deliveries = Vec::with_capacity(came.len());
        let overtakes = self.lane.overtakes().is_some();
        let mut ended = None;
        for message in came {
            // Of what the server says nothing may be acknowledged, and a stranger's status is none.
            let status = message.reply.is_none().then(|| message.status()).flatten();
            let of_this = message.subject == reply.as_bytes();
            match status {
                None => {
                    // Of a pull that was given up there may come more than there is room for.
                    let room = room.pop();
                    match Delivery::stored(message, self.source, room) {
                        Some(delivery) => deliveries.push(Delivery { overtakes, ..delivery }),
                        None => tracing::warn!(next = self.next, "neither a message nor a status"),
                    }
                }
                // Of one that has ended.
                Some(_) if !of_this => {}
                // A sign of life.
                Some(100) => {}
                // Nothing came for as long as the pull was open.
                Some(404 | 408) => {
                    self.lane.set_idle();
                    ended = Some(Pulled::Done);
                }
                Some(status) => {
                    ended = Some(Pulled::Refused(format!("the pull ended with status {status}")));
                }
            }
        }
        (deliveries, ended)
    }
}

/// Makes the worker's durable consumer from the topology if it is not there (any more). One that
/// is there stays as it is: changing it is for `provision`.
async fn ensure_durable(cx: &Context, stream: &str) -> anyhow::Result<()> {
    let (js, durable) = (&cx.nats.jetstream, cx.worker.as_str());
    let handle = js.get_stream_no_info(stream).await?;
    if handle.get_consumer::<pull::Config>(durable).await.is_ok() {
        return Ok(());
    }
    let config = cx.topology.consumer(stream, durable);
    let request = json!({ "stream_name": stream, "config": config });
    let created: Response<serde_json::Value> =
        js.request(format!("CONSUMER.CREATE.{stream}.{durable}"), &request).await?;
    if let Response::Err { error } = created {
        anyhow::bail!("cannot make the consumer {durable}: {error}");
    }
    Ok(())
}

/// Subscribes; `None` where the drain comes first.
async fn subscribe(
    cx: &Context,
    intake: &Intake,
    subject: &str,
    group: Option<&str>,
) -> anyhow::Result<Option<Subscription>> {
    tokio::select! {
        subscribed = intake.subscribe(subject, group) => subscribed.map(Some),
        () = cx.drain.cancelled() => Ok(None),
    }
}

/// Listens to requests until the drain, then takes those that were already on their way.
async fn listen_to(
    cx: &Context,
    intake: &Intake,
    subject: &'static str,
    source: usize,
    sender: &Sender,
    opened: &Semaphore,
) -> anyhow::Result<()> {
    let group = Some(cx.worker.as_str());
    let Some(mut requests) = subscribe(cx, intake, subject, group).await? else { return Ok(()) };
    opened.add_permits(1);
    let mut taking = true;
    loop {
        tokio::select! {
            came = requests.next() => match came {
                Some(came) => {
                    let came = came.into_iter().map(|request| Delivery::request(request, source));
                    sender.send(came.collect()).await?;
                }
                None if taking => anyhow::bail!("the connection has died"),
                None => return Ok(()),
            },
            () = cx.drain.cancelled(), if taking => {
                taking = false;
                requests.stop();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time;

    use anyhow::Result;
    use async_nats::jetstream::{consumer::pull::Config, stream};
    use brigade_contracts::WorkerName;
    use brigade_servers::NatsServer;
    use tempfile::TempDir;

    use super::*;
    use crate::{
        infra::{Health, Metrics, Nats, intake::Brings},
        testing::nats_server,
    };

    /// A stream with a consumer, from which is pulled.
    struct TestConsumer {
        server: NatsServer,
        nats: Nats,
        pulls: Pulls,
        sender: Sender,
        received: mpsc::Receiver<Vec<Delivery>>,
        _dir: TempDir,
    }

    impl TestConsumer {
        async fn start() -> Result<Self> {
            let (server, dir) = nats_server("").await?;
            let url = format!("nats://test@127.0.0.1:{}", server.port());
            let health = Health::new(WorkerName::CommandHandler);
            let nats = Nats::connect(&url, &health, &Arc::new(Metrics::new())).await?;
            let (name, subjects) = ("S".to_owned(), vec!["s.*".to_owned()]);
            let config = stream::Config { name, subjects, ..Default::default() };
            let stream = loop {
                if let Ok(stream) = nats.jetstream.create_stream(config.clone()).await {
                    break stream;
                }
            };
            let config = Config { durable_name: Some("d".to_owned()), ..Default::default() };
            // On a busy machine an answer of JetStream may come after its limit.
            while stream.create_consumer(config.clone()).await.is_err() {}
            let intake = nats.intake(Brings::Stored);
            let inbox = format!("{}.S.d", intake.inbox());
            let (sender, received) = mpsc::channel(MAX_BATCH);
            let pulls = Pulls {
                messages: intake.subscribe(format!("{inbox}.*"), None).await?,
                inbox,
                next: "$JS.API.CONSUMER.MSG.NEXT.S.d".to_owned(),
                lane: Arc::new(Lane::new("S", "d")),
                intake,
                pulls: 0,
                source: 0,
            };
            Ok(Self { server, nats, pulls, sender, received, _dir: dir })
        }

        async fn pull(&mut self, permits: usize) -> Result<Pulled> {
            let permits = Arc::new(Semaphore::new(permits));
            self.pulls.once(&CancellationToken::new(), &self.sender, &permits).await
        }

        fn received(&mut self) -> Vec<String> {
            let came = std::iter::from_fn(|| self.received.try_recv().ok()).flatten();
            came.map(|delivery| delivery.subject().to_owned()).collect()
        }
    }

    #[tokio::test]
    async fn a_pull_brings_what_there_is_room_for() -> Result<()> {
        let mut consumer = TestConsumer::start().await?;
        for at in 1..=5 {
            consumer.nats.jetstream.publish(format!("s.{at}"), "".into()).await?.await?;
        }
        assert_eq!(consumer.pull(3).await?, Pulled::Done);
        assert_eq!(consumer.received(), ["s.1", "s.2", "s.3"]);
        // The rest, and then the time is over.
        assert_eq!(consumer.pull(9).await?, Pulled::Done);
        assert_eq!(consumer.received(), ["s.4", "s.5"]);
        consumer.server.kill().await;
        Ok(())
    }

    #[tokio::test]
    async fn a_consumer_that_is_gone_or_silent_is_noticed() -> Result<()> {
        let mut consumer = TestConsumer::start().await?;
        while let Err(error) = consumer.nats.jetstream.delete_stream("S").await {
            if error.to_string().contains("not found") {
                break;
            }
        }
        let why = loop {
            match consumer.pull(9).await? {
                Pulled::Refused(why) => break why,
                other => assert_eq!(other, Pulled::Silent, "there is no consumer"),
            }
        };
        assert!(why.ends_with("503"), "{why}");
        // Somebody listens there, and never says a word, as a leader that has died.
        let _mute = consumer.nats.client.subscribe(consumer.pulls.next.clone()).await?;
        // Answered after the server knows of the subscription.
        assert!(consumer.nats.client.request("nobody", "".into()).await.is_err());
        let asked = time::Instant::now();
        assert_eq!(consumer.pull(9).await?, Pulled::Silent);
        assert!(asked.elapsed() >= PULL_SILENT);
        Ok(())
    }
}
