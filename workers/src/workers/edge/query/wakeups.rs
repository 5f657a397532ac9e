//! Wakeups: notices that something may have changed, without saying what. They come from pushes,
//! which may be lost, late or wrong, so their receivers also look again at intervals.

use async_nats::Subscriber;
use futures::{FutureExt, StreamExt};

use crate::infra::Nats;

/// The source of wakeups.
#[derive(Clone)]
pub struct WakeupSource {
    nats: Nats,
}

/// The wakeups of one subject, until they are dropped.
pub struct Wakeups {
    pushes: Subscriber,
}

impl WakeupSource {
    /// Returns the wakeups that come over this connection.
    #[must_use]
    pub fn new(nats: &Nats) -> Self {
        Self { nats: nats.clone() }
    }

    /// Subscribes to a subject. Returns when the server knows of it: a push after that is not
    /// missed.
    ///
    /// # Errors
    /// If the connection is closed.
    pub async fn subscribe(&self, subject: String) -> Result<Wakeups, async_nats::SubscribeError> {
        let pushes = self.nats.client.subscribe(subject).await?;
        self.nats.round_trip().await;
        Ok(Wakeups { pushes })
    }
}

impl Wakeups {
    /// Waits for the next one; `None` once the connection is closed.
    pub async fn next(&mut self) -> Option<()> {
        self.pushes.next().await.map(drop)
    }

    /// Drops those that have come already.
    pub fn discard_pending(&mut self) {
        while let Some(Some(())) = self.next().now_or_never() {}
    }
}
