//! Commands that are taken at any time and sent when that is possible.

use std::{collections::HashSet, sync::Arc, time::Duration};

use async_nats::connection::State;
use futures::{StreamExt, stream::FuturesUnordered};
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{Instant, sleep, sleep_until},
};

use super::{Client, ClientError, Line, ONE_TRY, QueueError, Send, pauses::Pauses};
use crate::{Address, Outcome, Token};

/// Commands on their way at once.
const AT_ONCE: usize = 64;
/// The time in which a connection that is back is noticed.
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

/// The commands that are under way, and those that may not be sent just now.
#[derive(Default)]
struct Road {
    busy: HashSet<Address>,
    pauses: Pauses,
    /// Only to be waited for: to send it again would make another message, and perhaps another dead
    /// letter.
    stored: HashSet<Token>,
}

impl Road {
    /// One try has ended.
    fn tried(
        &mut self,
        Send { address, command_id, .. }: Send,
        result: Result<Outcome, ClientError>,
        line: &watch::Sender<Line>,
    ) {
        self.busy.remove(&address);
        match result {
            Err(ClientError::TimedOut(_)) => return self.pauses.failed(address, Instant::now()),
            Err(ClientError::Undecided(_)) => {
                self.stored.insert(command_id);
                return self.pauses.failed(address, Instant::now());
            }
            Ok(outcome) => line.send_modify(|line| line.decide(&command_id, outcome)),
            Err(error) => line.send_modify(|line| line.fail(&command_id, error.to_string())),
        }
        self.pauses.end(&address);
        self.stored.remove(&command_id);
    }
}

/// While there is no connection nothing is begun, so that nothing piles up in the client's buffers.
async fn drive(client: Client, line: Arc<watch::Sender<Line>>) {
    let mut changed = line.subscribe();
    let mut road = Road::default();
    let mut under_way = FuturesUnordered::new();
    loop {
        changed.mark_unchanged();
        let connected = client.nats.connection_state() == State::Connected;
        if !connected {
            road.pauses.clear();
        }
        let now = Instant::now();
        let free = AT_ONCE - road.busy.len();
        let ready = line.borrow().ready(&road.busy, &road.pauses, now, free);
        for send in ready.into_iter().filter(|_| connected) {
            road.busy.insert(send.address.clone());
            let is_stored = road.stored.contains(&send.command_id);
            under_way.push(attempt(&client, send, is_stored));
        }
        let rested = road.pauses.next(now);
        tokio::select! {
            Some((send, result)) = under_way.next() => road.tried(send, result, &line),
            _ = changed.changed() => {}
            () = sleep(LOOK), if !connected => {}
            () = sleep_until(rested.unwrap_or(now)), if rested.is_some() => {}
        }
    }
}

/// One try. It is short, since another one follows: what is stuck keeps nobody's place for long.
async fn attempt(
    client: &Client,
    send: Send,
    is_stored: bool,
) -> (Send, Result<Outcome, ClientError>) {
    let until = Instant::now() + client.patience.min(ONE_TRY);
    let result = if is_stored {
        client.outcome_until(&send, until).await
    } else {
        client.send_until(&send, until).await
    };
    (send, result)
}
