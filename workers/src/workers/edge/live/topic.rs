//! The trait of topics, and what readers and hubs exchange.

use std::sync::Arc;

use brigade_contracts::Token;
use bytes::Bytes;
use tokio::sync::{broadcast, oneshot};

use crate::workers::edge::{
    metrics::EdgeMetrics,
    query::{Queries, QueryReply},
};

/// The sources of all topics.
#[derive(Clone)]
pub struct TopicContext {
    pub queries: Arc<Queries>,
    pub metrics: Arc<EdgeMetrics>,
}

/// The subject of a stream. It remembers what its readers have been sent.
pub trait Topic: Send + Sync + 'static {
    /// Returns the tenant that it belongs to.
    fn tenant(&self) -> &Token;

    /// Returns the subject of pushes that may mean a change. It also names the topic.
    fn wake_subject(&self) -> String;

    /// Returns the position of readers that got everything; `None` before the first query.
    fn position(&self) -> Option<String>;

    /// Returns true if a change is so large that it is not sent at each push, but once a second.
    fn is_heavy(&self) -> bool {
        false
    }

    /// Queries the changes for readers that got everything before, as events; `None` if there are
    /// none.
    ///
    /// # Errors
    /// If that is not certain; nothing has happened then.
    fn advance(
        &mut self,
        context: &TopicContext,
    ) -> impl Future<Output = Result<Option<Bytes>, QueryReply>> + Send;

    /// Returns the events that bring a reader with this last `id`, or with none, to the position of
    /// the others.
    ///
    /// # Errors
    /// If that is not certain, or the subject does not exist.
    fn catch_up(
        &self,
        context: &TopicContext,
        last_event_id: Option<&str>,
    ) -> impl Future<Output = Result<Bytes, QueryReply>> + Send;
}

/// A reader that wants to join a hub.
pub struct JoinRequest {
    /// The last `id` that it got.
    pub last_event_id: Option<String>,
    pub response: oneshot::Sender<Result<JoinedReader, QueryReply>>,
}

/// The events for a reader that has joined.
pub struct JoinedReader {
    /// Sent first: they bring it to the position of the others.
    pub catch_up: Bytes,
    /// All that follows, in pieces.
    pub changes: broadcast::Receiver<Bytes>,
}
