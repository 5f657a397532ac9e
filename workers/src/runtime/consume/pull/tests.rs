use std::time;

use anyhow::Result;
use async_nats::jetstream::{consumer::pull::Config, stream};
use brigade_contracts::WorkerName;
use brigade_servers::NatsServer;
use tempfile::TempDir;
use tokio::sync::mpsc;

use super::*;
use crate::{
    infra::{Health, Metrics, Nats, intake::IntakeKind},
    testing::nats_server,
};

/// A stream with a consumer to pull from.
struct PullHarness {
    server: NatsServer,
    nats: Nats,
    consumer: PullConsumer,
    sender: Sender,
    received: mpsc::Receiver<Vec<Delivery>>,
    _dir: TempDir,
}

impl PullHarness {
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
        let intake = nats.intake(IntakeKind::Stored);
        let inbox = format!("{}.S.d", intake.inbox());
        let (sender, received) = mpsc::channel(MAX_BATCH);
        let consumer = PullConsumer {
            messages: intake.subscribe(format!("{inbox}.*"), None).await?,
            inbox,
            next: "$JS.API.CONSUMER.MSG.NEXT.S.d".to_owned(),
            lane: Arc::new(Lane::new("S", "d")),
            intake,
            pulls: 0,
            source: 0,
        };
        Ok(Self { server, nats, consumer, sender, received, _dir: dir })
    }

    async fn pull(&mut self, permits: usize) -> Result<PullEnd> {
        let permits = Arc::new(Semaphore::new(permits));
        self.consumer.pull(&CancellationToken::new(), &self.sender, &permits).await
    }

    fn received(&mut self) -> Vec<String> {
        let received = std::iter::from_fn(|| self.received.try_recv().ok()).flatten();
        received.map(|delivery| delivery.subject().to_owned()).collect()
    }
}

/// More bytes than the server keeps for a connection, in fewer messages than there is room for.
#[tokio::test]
async fn s5_08_a_pull_of_large_messages_is_bounded_in_bytes() -> Result<()> {
    const LARGE: usize = 900_000;
    let mut harness = PullHarness::start().await?;
    for at in 0..50 {
        let large = vec![b' '; LARGE].into();
        harness.nats.jetstream.publish(format!("s.{at}"), large).await?.await?;
    }
    let mut all = 0;
    while all < 50 {
        assert_eq!(harness.pull(MAX_BATCH).await?, PullEnd::Done);
        let received = harness.received().len();
        assert!(received * LARGE <= PULL_BYTES, "{received} at once");
        all += received;
    }
    assert_eq!(all, 50);
    harness.server.kill().await;
    Ok(())
}

#[tokio::test]
async fn a_pull_brings_as_many_messages_as_there_is_room_for() -> Result<()> {
    let mut harness = PullHarness::start().await?;
    for at in 1..=5 {
        harness.nats.jetstream.publish(format!("s.{at}"), "".into()).await?.await?;
    }
    assert_eq!(harness.pull(3).await?, PullEnd::Done);
    assert_eq!(harness.received(), ["s.1", "s.2", "s.3"]);
    // The rest, and then the time is over.
    assert_eq!(harness.pull(9).await?, PullEnd::Done);
    assert_eq!(harness.received(), ["s.4", "s.5"]);
    harness.server.kill().await;
    Ok(())
}

#[tokio::test]
async fn a_consumer_that_is_gone_or_silent_is_noticed() -> Result<()> {
    let mut harness = PullHarness::start().await?;
    while let Err(error) = harness.nats.jetstream.delete_stream("S").await {
        if error.to_string().contains("not found") {
            break;
        }
    }
    let why = loop {
        match harness.pull(9).await? {
            PullEnd::Refused(why) => break why,
            other => assert_eq!(other, PullEnd::Silent, "there is no consumer"),
        }
    };
    assert!(why.ends_with("503"), "{why}");
    // Somebody listens there and never responds, like a leader that has died.
    let _mute = harness.nats.client.subscribe(harness.consumer.next.clone()).await?;
    // Answered after the server knows of the subscription.
    assert!(harness.nats.client.request("nobody", "".into()).await.is_err());
    let pulled = time::Instant::now();
    assert_eq!(harness.pull(9).await?, PullEnd::Silent);
    assert!(pulled.elapsed() >= PULL_SILENT);
    Ok(())
}
