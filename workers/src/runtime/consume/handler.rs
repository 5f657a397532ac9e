use std::{future::Future, sync::Arc};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::runtime::{Delivery, Verdict};

/// A worker that consumes.
pub trait Handler: Send + Sync + 'static {
    /// The number of batches of a kind that may be at work at once. One of them holds the permit of
    /// the kind; none is begun beside a small one.
    const AT_ONCE: usize = 1;

    /// The content of a message. It is decoded again for every try.
    type Message: Send;

    /// Decodes a message.
    ///
    /// # Errors
    /// The reason why the message can never be understood; it becomes a dead letter.
    fn decode(&self, delivery: &Delivery) -> Result<Self::Message, String>;

    /// Handles a batch. Returns one verdict a message, in the same order. The next batch may begin
    /// when `permit` is dropped, at the end at the latest.
    fn handle(
        &self,
        batch: Vec<Self::Message>,
        permit: BatchPermit,
    ) -> impl Future<Output = Vec<Verdict>> + Send;

    /// Returns whether the thing that a [`Verdict::Held`] named is still locked by somebody else.
    /// It is called often.
    fn is_locked(&self, _name: &str) -> bool {
        false
    }

    /// Refuses a request that will not be handled, so that its sender need not wait in vain.
    fn refuse(
        &self,
        _request: &Delivery,
        _reason: RefusalReason,
    ) -> impl Future<Output = ()> + Send {
        std::future::ready(())
    }

    /// Returns whether a message that has used up its tries was done after all, so that it is
    /// acknowledged and not dead-lettered.
    ///
    /// # Errors
    /// If this cannot be found out now; the message is then kept.
    fn is_done(&self, _delivery: &Delivery) -> impl Future<Output = anyhow::Result<bool>> + Send {
        std::future::ready(Ok(false))
    }
}

/// The right to be the batch that others of its kind wait for. Held messages are handled without
/// it.
#[derive(Debug)]
pub struct BatchPermit(Option<OwnedSemaphorePermit>);

impl BatchPermit {
    /// Returns the permit of a batch that nobody waits for.
    pub(super) fn beside() -> Self {
        Self(None)
    }

    /// Returns whether nobody waits for this batch.
    #[must_use]
    pub fn is_beside(&self) -> bool {
        self.0.is_none()
    }
}

/// The one permit of all batches of a kind.
pub(super) struct Permit {
    given: Arc<Semaphore>,
    /// The permit while no batch has it.
    free: Option<BatchPermit>,
}

impl Default for Permit {
    fn default() -> Self {
        Self { given: Arc::new(Semaphore::new(1)), free: None }
    }
}

impl Permit {
    pub(super) fn is_free(&self) -> bool {
        self.free.is_some()
    }

    pub(super) fn take(&mut self) -> Option<BatchPermit> {
        self.free.take()
    }

    /// Waits until no batch has the permit.
    pub(super) async fn given_back(&mut self) {
        let permit = self.given.clone().acquire_owned().await;
        self.free = Some(BatchPermit(Some(permit.expect("the semaphore is never closed"))));
    }
}

/// The reason why a request is not handled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusalReason {
    /// Too many wait already.
    Busy,
    /// Too many of its tenant wait already.
    TooMany,
    /// The worker panicked over it.
    Panicked,
    /// The worker ends while somebody else has locked what the request needs.
    Drained,
}
