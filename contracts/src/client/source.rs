//! The sources that wake a watch: pushes, the poll's interval, a connection that is back, and the
//! response to the query that is under way.

use std::{future::Future, pin::Pin, sync::atomic::Ordering, time::Duration};

use async_nats::{Message, Subscriber};
use futures::StreamExt;
use tokio::time::{Instant, sleep_until};

use super::{Client, ClientError};

/// The time in which a connection that is back is noticed: pushes in between are lost.
const LOOK: Duration = Duration::from_millis(100);
/// Pause before a query that failed is repeated.
const RETRY: Duration = Duration::from_millis(500);

pub(super) enum Wake<A> {
    Push(Message),
    /// A query is due; [`WatchSource::query`] begins it.
    Due,
    Answer(A),
    /// The connection was closed for good: nothing is pushed any more.
    Closed,
}

pub(super) struct WatchSource<A> {
    pub(super) client: Client,
    pushes: Subscriber,
    every: Duration,
    due: Instant,
    /// The number of connections at the last check.
    connects: u64,
    under_way: Option<Pin<Box<dyn Future<Output = A> + std::marker::Send>>>,
}

impl<A> WatchSource<A> {
    /// Listens to `subject`; the first query is due at once, and the server sees it after the
    /// subscription, so nothing falls between the two.
    pub(super) async fn new(
        client: &Client,
        subject: String,
        every: Duration,
    ) -> Result<Self, ClientError> {
        let pushes = client.nats.subscribe(subject).await;
        let pushes = pushes.map_err(|_| ClientError::Closed)?;
        let (client, due) = (client.clone(), Instant::now());
        Ok(Self { connects: connects(&client), client, pushes, every, due, under_way: None })
    }

    pub(super) fn set_every(&mut self, every: Duration) {
        self.every = every;
    }

    /// Dropped while it waits, it loses nothing.
    pub(super) async fn next(&mut self) -> Wake<A> {
        loop {
            let connects = connects(&self.client);
            if connects != self.connects {
                self.connects = connects;
                self.under_way = None;
                self.hurry();
            }
            if self.under_way.is_none() && self.due <= Instant::now() {
                return Wake::Due;
            }
            let under_way = self.under_way.as_mut();
            let waits_for_due = under_way.is_none();
            let answer = async { Some(under_way?.await) };
            let look = Instant::now() + LOOK;
            let look = if waits_for_due { look.min(self.due) } else { look };
            tokio::select! {
                pushed = self.pushes.next() => return pushed.map_or(Wake::Closed, Wake::Push),
                Some(answer) = answer => {
                    self.under_way = None;
                    return Wake::Answer(answer);
                }
                () = sleep_until(look) => {}
            }
        }
    }

    /// Begins the query that is due. The next one is due an interval from now.
    pub(super) fn query(&mut self, query: impl Future<Output = A> + std::marker::Send + 'static) {
        self.due = Instant::now() + self.every;
        self.under_way = Some(Box::pin(query));
    }

    /// A query is due now, or as soon as the one that is under way was answered.
    pub(super) fn hurry(&mut self) {
        self.due = Instant::now();
    }

    /// A query failed.
    pub(super) fn retry(&mut self) {
        self.due = self.due.min(Instant::now() + RETRY);
    }
}

fn connects(client: &Client) -> u64 {
    client.nats.statistics().connects.load(Ordering::Relaxed)
}
