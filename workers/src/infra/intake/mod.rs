//! Reads what tenants send: requests, and messages of streams.
//!
//! nats-server does not look into subjects and headers; it passes on whatever bytes it was given. A
//! client library that cannot read one of them loses its connection over it, and with it everything
//! else that was on its way: one message would stop all. So what tenants' credentials can reach is
//! read by a connection of its own, which cuts messages out as bytes ([`wire`]) and lets each
//! message say whether it can be read ([`Message`]). Acknowledgements, responses and all else use
//! the library's connection.

mod connection;
mod handshake;
mod message;
pub(crate) mod wire;

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use anyhow::Context as _;
use brigade_contracts::permissions::inbox_prefix;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

use self::connection::{Connection, IntakeAction};
use super::{
    Health,
    nats::{Nats, NatsCredentials, ServerErrors},
};

pub use self::message::{Message, headers_of_block};

/// Most batches of messages that wait for a subscriber. Then the connection is not read any
/// further, until the server closes it as one that is too slow. Above what two pulls can bring one
/// by one.
const WAITING: usize = 1024;

/// The kind of messages that a connection carries. Each kind has a connection of its own: however
/// many requests come, and however large they are, they do not delay messages of streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IntakeKind {
    /// Requests, whose payload is dropped where it is too large to be handled.
    Requests,
    /// Messages of streams.
    Stored,
}

impl IntakeKind {
    /// Returns the name of the connection in the health of the worker.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Requests => "intake",
            Self::Stored => "pulls",
        }
    }
}

/// A handle of a connection that subscribes. The connection ends with its last handle.
#[derive(Clone)]
pub struct Intake {
    actions: mpsc::UnboundedSender<IntakeAction>,
    connections: watch::Receiver<u64>,
    /// The prefix of subjects on which this connection, and no other one, gets responses.
    inbox: Arc<str>,
    numbers: Arc<AtomicU64>,
    _task: Arc<AbortOnDropHandle<()>>,
}

/// Messages of one subject.
pub struct IntakeSubscription {
    sid: u64,
    actions: mpsc::UnboundedSender<IntakeAction>,
    messages: mpsc::Receiver<Vec<Message>>,
}

impl Intake {
    /// Connects, now and whenever the connection is lost.
    #[must_use]
    pub fn open(
        kind: IntakeKind,
        credentials: Arc<NatsCredentials>,
        health: Health,
        errors: ServerErrors,
    ) -> Self {
        let (actions, received) = mpsc::unbounded_channel();
        let (count, connections) = watch::channel(0);
        let inbox =
            format!("{}.{}", inbox_prefix(&credentials.user), Uuid::now_v7().simple()).into();
        let connection = Connection::new(kind, credentials, health, errors, count);
        let task = tokio::spawn(connection.run(received));
        let _task = Arc::new(AbortOnDropHandle::new(task));
        Self { actions, connections, inbox, numbers: Arc::default(), _task }
    }

    /// Subscribes; with a group the messages are shared with all other members of it. Returns when
    /// the server has the subscription.
    ///
    /// # Errors
    /// If the connection's task has died.
    pub async fn subscribe(
        &self,
        subject: impl Into<String>,
        group: Option<&str>,
    ) -> anyhow::Result<IntakeSubscription> {
        let (sender, messages) = mpsc::channel(WAITING);
        let (confirm, confirmed) = oneshot::channel();
        let sid = self.numbers.fetch_add(1, Ordering::Relaxed) + 1;
        let subject = match group {
            Some(group) => format!("{} {group}", subject.into()),
            None => subject.into(),
        };
        let dead = "the intake's connection has died";
        self.actions
            .send(IntakeAction::Subscribe { sid, subject, sender, confirm })
            .context(dead)?;
        confirmed.await.context(dead)?;
        Ok(IntakeSubscription { sid, actions: self.actions.clone(), messages })
    }

    /// Publishes a request whose responses come to `reply`. Lost if there is no connection.
    pub fn request(&self, subject: &str, reply: &str, payload: &str) {
        let (subject, reply, payload) = (subject.to_owned(), reply.to_owned(), payload.to_owned());
        // If the task has died, the subscription that waits for the responses ends too.
        let _dead = self.actions.send(IntakeAction::Publish { subject, reply, payload });
    }

    /// Returns the prefix of subjects on which this connection, and no other one, gets responses.
    #[must_use]
    pub fn inbox(&self) -> &str {
        &self.inbox
    }

    /// Returns the number of connections so far. Requests on an earlier one get no response any
    /// more.
    #[must_use]
    pub fn connections(&self) -> watch::Receiver<u64> {
        self.connections.clone()
    }
}

impl Nats {
    /// Opens a connection of its own for what tenants send.
    #[must_use]
    pub fn intake(&self, kind: IntakeKind) -> Intake {
        Intake::open(kind, self.credentials.clone(), self.health.clone(), self.errors.clone())
    }
}

impl IntakeSubscription {
    /// Waits for messages, and returns those that came together, at least one; `None` after
    /// [`IntakeSubscription::stop`], or if the connection's task has died.
    pub async fn next(&mut self) -> Option<Vec<Message>> {
        self.messages.recv().await
    }

    /// Returns messages that have come already, if there are any.
    pub fn next_at_once(&mut self) -> Option<Vec<Message>> {
        self.messages.try_recv().ok()
    }

    /// Ends the subscription without losing a message: those that the server had sent before still
    /// come.
    pub fn stop(&self) {
        // A task that has died has ended it already.
        let _dead = self.actions.send(IntakeAction::Unsubscribe(self.sid));
    }
}

impl Drop for IntakeSubscription {
    fn drop(&mut self) {
        self.stop();
    }
}

#[cfg(test)]
mod tests {
    use anyhow::Result;
    use async_nats::Client;
    use brigade_contracts::WorkerName;
    use brigade_servers::NatsServer;
    use futures::StreamExt;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpStream,
    };

    use super::*;
    use crate::infra::{Metrics, NatsOptions};
    use crate::testing::nats_server;

    const USERS: &str = "authorization { users: [{ user: edge, password: e }, \
                         { user: asker, password: a }] }\n";

    /// An intake of `edge`, and a client that sends to it.
    struct TestIntake {
        server: NatsServer,
        intake: Intake,
        health: Health,
        asker: Client,
        _dir: tempfile::TempDir,
    }

    async fn start() -> Result<TestIntake> {
        let (server, dir) = nats_server(USERS).await?;
        let url = |user: &str| format!("nats://{user}@127.0.0.1:{}", server.port());
        let health = Health::new(WorkerName::Edge);
        let credentials =
            Arc::new(NatsCredentials::parse(&url("edge:e"), "edge", &NatsOptions::default())?);
        let intake =
            Intake::open(IntakeKind::Requests, credentials, health.clone(), errors(&health));
        let asker = async_nats::ConnectOptions::with_user_and_password("asker".into(), "a".into())
            .reconnect_delay_callback(|_| crate::infra::nats::pauses::RECONNECT_DELAY)
            .connect(format!("127.0.0.1:{}", server.port()))
            .await?;
        Ok(TestIntake { server, intake, health, asker, _dir: dir })
    }

    fn errors(health: &Health) -> ServerErrors {
        ServerErrors::new(health, &Metrics::new(), "edge")
    }

    /// Nobody answers, which is a round trip all the same.
    async fn round_trip(client: &Client) {
        let _nobody = client.request("nobody", "".into()).await;
    }

    async fn all(mut subscription: IntakeSubscription) -> Vec<Message> {
        let mut all = Vec::new();
        while let Some(came) = subscription.next().await {
            all.extend(came);
        }
        all
    }

    #[tokio::test]
    async fn a_subscription_that_ends_loses_nothing_and_takes_nothing_more() -> Result<()> {
        let test = start().await?;
        let requests = test.intake.subscribe("q.*", Some("edge")).await?;
        for at in 0..1000 {
            test.asker.publish(format!("q.{at}"), "x".into()).await?;
        }
        round_trip(&test.asker).await;
        requests.stop();
        // Answered after the server has heard of the end.
        drop(test.intake.subscribe("other", None).await?);
        let refused = test.asker.request("q.after", "".into()).await.unwrap_err();
        assert_eq!(refused.kind(), async_nats::RequestErrorKind::NoResponders);
        let all = all(requests).await;
        let subjects: Vec<_> = all.iter().map(Message::subject).collect();
        assert_eq!(subjects, (0..1000).map(|at| format!("q.{at}")).collect::<Vec<_>>());
        Ok(())
    }

    #[tokio::test]
    async fn bytes_that_no_library_reads_cost_nobody_the_connection() -> Result<()> {
        let test = start().await?;
        let requests = test.intake.subscribe("q.>", None).await?;
        let mut raw = TcpStream::connect(("127.0.0.1", test.server.port())).await?;
        raw.write_all(
            b"CONNECT {\"user\":\"asker\",\"pass\":\"a\",\"headers\":true,\"verbose\":false}\r\n\
              PUB q.\xff\xfe _INBOX.\xff 2\r\n\r\n\r\n\
              HPUB q.header 21 23\r\nNATS/1.0\r\nA: b\rc\xff\r\n\r\n{}\r\n\
              PUB q.last 0\r\n\r\nPING\r\n",
        )
        .await?;
        let mut answer = Vec::new();
        while !answer.ends_with(b"PONG\r\n") {
            assert!(raw.read_buf(&mut answer).await? > 0, "{}", answer.escape_ascii());
        }
        requests.stop();
        let all = all(requests).await;
        assert_eq!(all.len(), 3);
        assert_eq!((&all[0].subject[..], &all[0].payload[..]), (&b"q.\xff\xfe"[..], &b"\r\n"[..]));
        assert_eq!(all[0].reply.as_deref(), Some(&b"_INBOX.\xff"[..]));
        assert!(all[1].readable().is_err());
        assert_eq!(all[2].subject(), "q.last");
        assert_eq!(*test.intake.connections().borrow(), 1);
        Ok(())
    }

    #[tokio::test]
    async fn a_subscription_outlives_the_server() -> Result<()> {
        let mut test = start().await?;
        let mut requests = test.intake.subscribe("q.*", None).await?;
        let left = test.intake.subscribe("q.left", None).await?;
        let mut connections = test.intake.connections();
        connections.mark_unchanged();
        test.server.stop().await;
        // One that ends meanwhile ends at once.
        left.stop();
        assert!(all(left).await.is_empty());
        test.server.restart().await?;
        connections.changed().await?;
        // Answered after the server knows of what was there before.
        drop(test.intake.subscribe("other", None).await?);
        let mut asked = test.asker.subscribe("done").await?;
        round_trip(&test.asker).await;
        test.asker.publish("q.1", "x".into()).await?;
        test.asker.publish("done", "".into()).await?;
        assert!(asked.next().await.is_some());
        assert_eq!(requests.next().await.expect("a message")[0].subject(), "q.1");
        Ok(())
    }

    #[tokio::test]
    async fn a_password_that_is_wrong_is_told() -> Result<()> {
        let test = start().await?;
        let url = format!("nats://edge:wrong@127.0.0.1:{}", test.server.port());
        let health = Health::new(WorkerName::Edge);
        let credentials = Arc::new(NatsCredentials::parse(&url, "edge", &NatsOptions::default())?);
        let _intake =
            Intake::open(IntakeKind::Requests, credentials, health.clone(), errors(&health));
        let why = loop {
            match health.ready() {
                Err(why) if why.contains("intake") => break why,
                _ => tokio::task::yield_now().await,
            }
        };
        assert!(why.contains("Authorization Violation") && why.contains("fleet.conf"), "{why}");
        assert!(!test.health.ready().unwrap_err().contains("intake"));
        Ok(())
    }
}
