//! Commands that are taken at any time and sent when that is possible.

use std::{collections::HashSet, sync::Arc, time::Duration};

use async_nats::connection::State;
use futures::{StreamExt, stream::FuturesUnordered};
use tokio::{sync::watch, task::JoinHandle, time::sleep};

use super::{Client, Line, PAUSE, QueueError, Send};

/// Commands on their way at once.
const AT_ONCE: usize = 64;
/// How soon it is noticed that the connection is back.
const LOOK: Duration = Duration::from_millis(50);

impl Client {
    /// Sends what waits in `line`, new or kept from an earlier run, and what is added to it, for as
    /// long as the queue is held.
    #[must_use]
    pub fn queue(&self, line: Line) -> Queue {
        let line = Arc::new(watch::Sender::new(line));
        let driver = tokio::spawn(drive(self.clone(), line.clone()));
        Queue { line, driver }
    }
}

/// A [`Line`] that is being sent. Dropping it stops the sending; what it holds is then to be kept
/// by its last [`Queue::line`], in which what was under way is still pending.
pub struct Queue {
    line: Arc<watch::Sender<Line>>,
    driver: JoinHandle<()>,
}

impl Queue {
    /// Takes a command, whether there is a connection or not.
    ///
    /// # Errors
    /// As [`Line::add`].
    pub fn add(&self, send: Send) -> Result<(), QueueError> {
        self.change(|line| line.add(send))
    }

    /// Takes a command that is skipped if the one before it on its aggregate is refused.
    ///
    /// # Errors
    /// As [`Line::add_if_done`].
    pub fn add_if_done(&self, send: Send) -> Result<(), QueueError> {
        self.change(|line| line.add_if_done(send))
    }

    /// The line as it stands, to be looked at or kept.
    #[must_use]
    pub fn line(&self) -> Line {
        self.line.borrow().clone()
    }

    /// Wakes whenever a command is taken or decided; holds the line as it stands.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Line> {
        self.line.subscribe()
    }

    fn change<T>(&self, change: impl FnOnce(&mut Line) -> T) -> T {
        let mut result = None;
        self.line.send_modify(|line| result = Some(change(line)));
        result.expect("it was called")
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// While there is no connection nothing is begun, so that nothing piles up in the client's buffers.
async fn drive(client: Client, line: Arc<watch::Sender<Line>>) {
    let mut changed = line.subscribe();
    let mut busy = HashSet::new();
    let mut under_way = FuturesUnordered::new();
    loop {
        changed.mark_unchanged();
        let connected = client.nats.connection_state() == State::Connected;
        let ready = line.borrow().ready(&busy, AT_ONCE - busy.len());
        for send in ready.into_iter().filter(|_| connected) {
            busy.insert(send.address.clone());
            under_way.push(decide(&client, send));
        }
        tokio::select! {
            Some((send, outcome)) = under_way.next() => {
                busy.remove(&send.address);
                if let Some(outcome) = outcome {
                    line.send_modify(|line| line.decide(&send.command_id, outcome));
                }
            }
            _ = changed.changed() => {}
            () = sleep(LOOK), if !connected => {}
        }
    }
}

/// `None`: not decided as far as is known, to be sent again under the same Command-Id.
async fn decide(client: &Client, send: Send) -> (Send, Option<crate::Outcome>) {
    let outcome = client.send(&send).await.ok();
    if outcome.is_none() {
        sleep(PAUSE).await;
    }
    (send, outcome)
}
