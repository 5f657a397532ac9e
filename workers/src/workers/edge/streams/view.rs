//! What an aggregate shows, as a topic. Its position is the version.
//!
//! An aggregate that has ended is shown as any other, and its stream goes on: money may still be
//! paid back. Versions that follow each other closely may be told as one change.

use std::cmp::Ordering;

use brigade_contracts::{
    Address, IfNoneMatch,
    key::{self, Bucket},
    query::ViewHeaders,
};
use bytes::Bytes;

use super::{
    Edge,
    frame::{Kind, event, heartbeat},
    hub::Topic,
};
use crate::workers::edge::reply::Reply;

pub struct View {
    address: Address,
    told: Option<Told>,
}

/// What all readers were told.
struct Told {
    version: u64,
    body: Bytes,
}

impl View {
    #[must_use]
    pub fn new(address: Address) -> Self {
        Self { address, told: None }
    }
}

impl Told {
    /// To whoever has this version, if any.
    fn to(&self, last: Option<u64>) -> Bytes {
        let id = self.version.to_string();
        match last.map(|last| last.cmp(&self.version)) {
            Some(Ordering::Equal) => heartbeat(&id),
            Some(Ordering::Less) => event(Kind::Change, &id, &self.body),
            // A version that was lost with its database, or that never was.
            Some(Ordering::Greater) => event(Kind::Reset, &id, &self.body),
            None => event(Kind::Snapshot, &id, &self.body),
        }
    }
}

impl Topic for View {
    fn wake(&self) -> String {
        Bucket::Versions.live(&key::versions(&self.address))
    }

    fn position(&self) -> Option<String> {
        self.told.as_ref().map(|told| told.version.to_string())
    }

    async fn advance(&mut self, edge: &Edge) -> Result<Option<Bytes>, Reply> {
        let before = self.told.as_ref().map(|told| told.version);
        let known = before.map(|version| IfNoneMatch::Tags(vec![version.to_string()]));
        let asked = ViewHeaders { if_none_match: known, ..ViewHeaders::default() };
        let reply = edge.view(&self.address, &asked).await?;
        if reply.status == 304 {
            return Ok(None);
        }
        let version = reply.etag.as_deref().and_then(|tag| tag.trim_matches('"').parse().ok());
        let version = version.ok_or_else(Reply::unconfirmed)?;
        let told = self.told.insert(Told { version, body: reply.body });
        let news = before.map(|_| told.to(before));
        edge.cx.metrics.stream_changes.inc_by(news.is_some().into());
        Ok(news)
    }

    async fn first(&self, _: &Edge, last: Option<&str>) -> Result<Bytes, Reply> {
        let told = self.told.as_ref().ok_or_else(Reply::unconfirmed)?;
        // What is no version was never told: everything.
        Ok(told.to(last.map(|last| last.parse().unwrap_or(u64::MAX))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_is_told_what_it_does_not_have() {
        let told = Told { version: 7, body: "{}".into() };
        let event = |kind: &str| Bytes::from(format!("event: {kind}\nid: 7\ndata: {{}}\n\n"));
        assert_eq!(told.to(None), event("snapshot"));
        assert_eq!(told.to(Some(6)), event("change"));
        assert_eq!(told.to(Some(7)), ":\nid: 7\n\n");
        assert_eq!(told.to(Some(8)), event("reset"));
    }
}
