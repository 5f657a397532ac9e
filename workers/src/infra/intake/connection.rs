#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    sync::Arc,
    time::Duration,
};

use anyhow::ensure;
use bytes::BytesMut;
use tokio::{
    io::{AsyncReadExt, AsyncWrite, AsyncWriteExt},
    sync::{mpsc, oneshot, watch},
    time::{Instant, MissedTickBehavior, interval_at},
};

use super::{
    IntakeKind, Message,
    handshake::{Accepted, READ, connect},
    wire::{self, Op},
};
use crate::infra::{
    Health,
    nats::{NatsCredentials, ServerErrors},
};

/// A connection is dead when the third ping is due and none of the two before it was answered, at
/// most 4.5 s after the last message.
const PING_EVERY: Duration = Duration::from_millis(1500);
/// Below this much room a new buffer is begun.
const MIN_ROOM: usize = 4 * 1024;

/// An action that a handle asks the connection's task for.
pub(super) enum IntakeAction {
    Subscribe {
        sid: u64,
        /// With the group, if there is one.
        subject: String,
        sender: mpsc::Sender<Vec<Message>>,
        confirm: oneshot::Sender<()>,
    },
    Unsubscribe(u64),
    Publish {
        subject: String,
        reply: String,
        payload: String,
    },
}

/// The reason of a ping. The server answers pings in their order.
pub(super) enum PingReason {
    /// To find out whether the server responds.
    Alive,
    /// The server has this subscription when it answers.
    Subscribed(u64),
    /// No more messages of this subscription come after the answer.
    Unsubscribed(u64),
}

/// A subscription as the connection keeps it.
pub(super) struct ActiveSubscription {
    subject: String,
    sender: mpsc::Sender<Vec<Message>>,
    /// Notified when the server has the subscription.
    confirm: Option<oneshot::Sender<()>>,
    /// Messages that are not delivered to the subscriber yet.
    received: Vec<Message>,
}

/// The state that is kept from one connection to the next.
pub(super) struct Connection {
    kind: IntakeKind,
    credentials: Arc<NatsCredentials>,
    health: Health,
    errors: ServerErrors,
    count: watch::Sender<u64>,
    subscribed: BTreeMap<u64, ActiveSubscription>,
    ended: Vec<ActiveSubscription>,
    /// The bytes to be sent.
    out: BytesMut,
    /// The pings without an answer.
    pings: VecDeque<PingReason>,
    /// The number of pings since the server last sent anything.
    unanswered: u32,
}

impl Connection {
    pub(super) fn new(
        kind: IntakeKind,
        credentials: Arc<NatsCredentials>,
        health: Health,
        errors: ServerErrors,
        count: watch::Sender<u64>,
    ) -> Self {
        Self {
            kind,
            credentials,
            health,
            errors,
            count,
            subscribed: BTreeMap::new(),
            ended: Vec::new(),
            out: BytesMut::new(),
            pings: VecDeque::new(),
            unanswered: 0,
        }
    }

    /// Runs until the last handle is dropped.
    pub(super) async fn run(mut self, mut actions: mpsc::UnboundedReceiver<IntakeAction>) {
        let mut servers = self.credentials.servers.clone();
        loop {
            let (credentials, health) = (self.credentials.clone(), self.health.clone());
            let connecting = connect(self.kind, credentials, servers.clone(), health);
            tokio::pin!(connecting);
            let accepted = loop {
                tokio::select! {
                    accepted = &mut connecting => break accepted,
                    action = actions.recv() => match action {
                        Some(action) => self.apply_offline(action),
                        None => return,
                    },
                }
            };
            for other in &accepted.others {
                if !servers.contains(other) {
                    servers.push(other.clone());
                }
            }
            self.begin();
            match self.serve(accepted, &mut actions).await {
                Ok(()) => return,
                Err(error) => self.health.away(self.kind.name(), &format!("{error:#}")),
            }
            self.end();
        }
    }

    /// Subscribes again, now that there is a connection.
    fn begin(&mut self) {
        for (sid, subscribed) in &self.subscribed {
            write(&mut self.out, &["SUB ", &subscribed.subject, " ", &sid.to_string(), "\r\n"]);
        }
        let unconfirmed =
            self.subscribed.iter().filter(|(_, subscribed)| subscribed.confirm.is_some());
        for sid in unconfirmed.map(|(sid, _)| *sid).collect::<Vec<_>>() {
            self.ping(PingReason::Subscribed(sid));
        }
        self.health.back(self.kind.name());
        self.count.send_modify(|count| *count += 1);
    }

    /// Drops the state of a connection that is lost.
    fn end(&mut self) {
        self.out.clear();
        self.unanswered = 0;
        for reason in std::mem::take(&mut self.pings) {
            if let PingReason::Unsubscribed(sid) = reason {
                self.subscribed.remove(&sid);
            }
        }
    }

    /// Returns when the last handle is dropped.
    ///
    /// # Errors
    /// If the connection is lost.
    async fn serve(
        &mut self,
        accepted: Accepted,
        actions: &mut mpsc::UnboundedReceiver<IntakeAction>,
    ) -> anyhow::Result<()> {
        let (mut reader, mut writer) = tokio::io::split(accepted.stream);
        let mut buffer = accepted.buffer;
        let mut tick = interval_at(Instant::now() + PING_EVERY, PING_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut flushed = true;
        self.handle_operations(&mut buffer).await?;
        loop {
            if buffer.capacity() - buffer.len() < MIN_ROOM {
                buffer.reserve(READ);
            }
            tokio::select! {
                read = reader.read_buf(&mut buffer) => {
                    ensure!(read? > 0, "the server closed the connection");
                    self.handle_operations(&mut buffer).await?;
                }
                sent = send(&mut writer, &mut self.out), if !(flushed && self.out.is_empty()) => {
                    flushed = sent?;
                }
                action = actions.recv() => match action {
                    Some(action) => self.apply(action),
                    None => return Ok(()),
                },
                _ = tick.tick() => {
                    ensure!(self.unanswered < 2, "the server does not answer");
                    self.unanswered += 1;
                    self.ping(PingReason::Alive);
                }
            }
        }
    }

    /// Handles the operations that are complete, and delivers the messages.
    async fn handle_operations(&mut self, buffer: &mut BytesMut) -> anyhow::Result<()> {
        while let Some(op) = wire::next(buffer)? {
            match op {
                Op::Message { sid, message } => {
                    // None where the subscription has just ended.
                    if let Some(subscribed) = self.subscribed.get_mut(&sid) {
                        subscribed.received.push(match self.kind {
                            IntakeKind::Requests => message.shed(),
                            IntakeKind::Stored => message,
                        });
                    }
                }
                Op::Ping => write(&mut self.out, &["PONG\r\n"]),
                Op::Pong => self.answered(),
                Op::Err(text) => self.errors.report(&text),
                Op::Info(_) | Op::Ok => {}
            }
        }
        let mut gone = Vec::new();
        for mut subscribed in self.ended.drain(..) {
            // Either the subscriber is gone, or it has everything.
            let _gone = subscribed.deliver().await;
        }
        for (sid, subscribed) in &mut self.subscribed {
            if !subscribed.deliver().await {
                gone.push(*sid);
            }
        }
        for sid in gone {
            self.apply(IntakeAction::Unsubscribe(sid));
        }
        // Not before: while subscribers took no messages, nothing was read either.
        self.unanswered = 0;
        Ok(())
    }

    fn answered(&mut self) {
        match self.pings.pop_front() {
            Some(PingReason::Subscribed(sid)) => {
                let confirm = self.subscribed.get_mut(&sid).and_then(|s| s.confirm.take());
                // The subscriber may have given up.
                let _gone = confirm.map(|confirm| confirm.send(()));
            }
            Some(PingReason::Unsubscribed(sid)) => self.ended.extend(self.subscribed.remove(&sid)),
            Some(PingReason::Alive) | None => {}
        }
    }

    fn ping(&mut self, reason: PingReason) {
        write(&mut self.out, &["PING\r\n"]);
        self.pings.push_back(reason);
    }

    fn apply(&mut self, action: IntakeAction) {
        match action {
            IntakeAction::Subscribe { sid, ref subject, .. } => {
                write(&mut self.out, &["SUB ", subject, " ", &sid.to_string(), "\r\n"]);
                self.apply_offline(action);
                self.ping(PingReason::Subscribed(sid));
            }
            IntakeAction::Unsubscribe(sid) if self.subscribed.contains_key(&sid) => {
                write(&mut self.out, &["UNSUB ", &sid.to_string(), "\r\n"]);
                self.ping(PingReason::Unsubscribed(sid));
            }
            IntakeAction::Unsubscribe(_) => {}
            IntakeAction::Publish { subject, reply, payload } => {
                let length = payload.len().to_string();
                let parts = ["PUB ", &subject, " ", &reply, " ", &length, "\r\n", &payload, "\r\n"];
                write(&mut self.out, &parts);
            }
        }
    }

    /// Applies an action while there is no connection. A request is lost: it may be out of date
    /// when there is one again.
    fn apply_offline(&mut self, action: IntakeAction) {
        match action {
            IntakeAction::Subscribe { sid, subject, sender, confirm } => {
                let (confirm, received) = (Some(confirm), Vec::new());
                let subscribed = ActiveSubscription { subject, sender, confirm, received };
                self.subscribed.insert(sid, subscribed);
            }
            IntakeAction::Unsubscribe(sid) => drop(self.subscribed.remove(&sid)),
            IntakeAction::Publish { .. } => {}
        }
    }
}

impl ActiveSubscription {
    /// Delivers the messages. Returns false if the subscriber is gone.
    async fn deliver(&mut self) -> bool {
        self.received.is_empty()
            || self.sender.send(std::mem::take(&mut self.received)).await.is_ok()
    }
}

fn write(out: &mut BytesMut, parts: &[&str]) {
    for part in parts {
        out.extend_from_slice(part.as_bytes());
    }
}

/// Sends some of the bytes. TLS may keep what was written: then it is flushed, in a step of its
/// own, so that a server which reads nothing does not keep the pings from ending the connection.
/// Returns true if everything is sent.
async fn send(writer: &mut (impl AsyncWrite + Unpin), out: &mut BytesMut) -> io::Result<bool> {
    if out.is_empty() {
        writer.flush().await?;
        return Ok(true);
    }
    writer.write_buf(out).await?;
    Ok(false)
}
