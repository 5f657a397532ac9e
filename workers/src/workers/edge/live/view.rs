//! The view of an aggregate, as a topic. Its position is the version.
//!
//! An aggregate that has ended is served as any other, and its stream goes on: money may still be
//! paid back. Versions that follow each other closely may be sent as one change.

use brigade_contracts::{
    Address, Era, EraVersion, IfNoneMatch, Token,
    key::{self, Bucket},
    query::ViewHeaders,
};
use bytes::Bytes;

use super::{
    sse::{SseEventKind, event, heartbeat},
    topic::{Topic, TopicContext},
};
use crate::workers::edge::query::QueryReply;

/// The view of an aggregate.
pub struct ViewTopic {
    address: Address,
    sent: Option<SentView>,
}

/// The view that all readers were sent.
struct SentView {
    version: EraVersion,
    body: Bytes,
}

impl ViewTopic {
    /// Creates the topic of an aggregate.
    #[must_use]
    pub fn new(address: Address) -> Self {
        Self { address, sent: None }
    }
}

impl SentView {
    /// Returns the events for a reader that has version `last`, or none.
    fn events_after(&self, last: Option<EraVersion>) -> Bytes {
        let id = self.version.to_string();
        match last {
            None => event(SseEventKind::Snapshot, &id, &self.body),
            Some(last) if last == self.version => heartbeat(&id),
            Some(last) if last.era == self.version.era && last < self.version => {
                event(SseEventKind::Change, &id, &self.body)
            }
            // A version that was lost with its database, or that never was.
            Some(_) => event(SseEventKind::Reset, &id, &self.body),
        }
    }
}

impl Topic for ViewTopic {
    fn tenant(&self) -> &Token {
        &self.address.tenant
    }

    fn wake_subject(&self) -> String {
        Bucket::Versions.live(&key::versions(&self.address))
    }

    fn position(&self) -> Option<String> {
        self.sent.as_ref().map(|sent| sent.version.to_string())
    }

    async fn advance(&mut self, context: &TopicContext) -> Result<Option<Bytes>, QueryReply> {
        let before = self.sent.as_ref().map(|sent| sent.version);
        let known = before.map(|version| IfNoneMatch::Tags(vec![version.to_string()]));
        let headers = ViewHeaders { if_none_match: known, ..ViewHeaders::default() };
        let reply = context.queries.views.get(&self.address, &headers).await?;
        if reply.status == 304 {
            return Ok(None);
        }
        let version = reply.etag.as_deref().and_then(EraVersion::of_etag);
        let version = version.ok_or_else(QueryReply::unconfirmed)?;
        let sent = self.sent.insert(SentView { version, body: reply.body });
        let change = before.map(|_| sent.events_after(before));
        context.metrics.stream_changes.inc_by(change.is_some().into());
        Ok(change)
    }

    async fn catch_up(
        &self,
        _: &TopicContext,
        last_event_id: Option<&str>,
    ) -> Result<Bytes, QueryReply> {
        let sent = self.sent.as_ref().ok_or_else(QueryReply::unconfirmed)?;
        // An id that is no version was never sent: everything.
        let never = Era::FIRST.at(u64::MAX);
        Ok(sent.events_after(last_event_id.map(|last| last.parse().unwrap_or(never))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_is_told_what_it_does_not_have() {
        let sent = SentView { version: Era::FIRST.at(7), body: "{}".into() };
        let event = |kind: &str| Bytes::from(format!("event: {kind}\nid: 7\ndata: {{}}\n\n"));
        assert_eq!(sent.events_after(None), event("snapshot"));
        let after = |version: u64| sent.events_after(Some(Era::FIRST.at(version)));
        assert_eq!(after(6), event("change"));
        assert_eq!(after(7), ":\nid: 7\n\n");
        assert_eq!(after(8), event("reset"));
        assert_eq!(sent.events_after(Some(Era::new(9).at(6))), event("reset"));
    }
}
