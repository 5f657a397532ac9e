//! Views that are never older than what the client knows.

use std::sync::PoisonError;

use async_nats::HeaderMap;
use serde_json::Value;
use tokio::time::{Instant, sleep};

use super::{Client, ClientError, body, commands::pause};
use crate::{
    Address, EraVersion,
    header::{ETAG, IF_NONE_MATCH, MIN_VERSION, WAIT_MS},
    subject,
};

/// Aggregates that are remembered; what is forgotten is only read in full again.
const MAX_KNOWN: usize = 10_000;

/// A view, as it was answered.
#[derive(Clone, Debug, PartialEq)]
pub struct ConfirmedView {
    /// Greater than those of earlier eras of the database.
    pub version: EraVersion,
    pub body: Value,
}

/// The newest version and view that this client knows of an aggregate.
#[derive(Clone, Default)]
pub(super) struct KnownView {
    /// The highest version that anybody told it: outcomes and views.
    version: EraVersion,
    /// The newest view it has, perhaps of an earlier version.
    view: Option<ConfirmedView>,
}

impl KnownView {
    /// The view, unless it is known to be old.
    fn newest(self) -> Option<ConfirmedView> {
        self.view.filter(|view| view.version >= self.version)
    }
}

impl Client {
    /// The view of an aggregate, never older than any outcome or view that this client was given.
    ///
    /// # Errors
    /// [`ClientError::Refused`] with 404 where there is none; [`ClientError::TimedOut`].
    pub async fn view(&self, address: &Address) -> Result<ConfirmedView, ClientError> {
        let until = Instant::now() + self.patience;
        loop {
            let known = self.known(address);
            let mut headers = HeaderMap::new();
            if known.version > EraVersion::default() {
                headers.insert(MIN_VERSION, known.version.to_string());
                headers.insert(WAIT_MS, "1000");
            }
            // An ETag below what is known would only ask for what is known to be old.
            if let Some(view) = known.newest() {
                headers.insert(IF_NONE_MATCH, view.version.etag());
            }
            let reply = self.ask(subject::query_view(address), headers, Vec::new()).await;
            let unconfirmed = match reply {
                Ok((200, reply)) => {
                    let view = read_view(&reply)?;
                    self.learn(address, view.version, Some(view));
                    None
                }
                Ok((304, _)) => None,
                Ok((503 | 504, reply)) => Some(body(&reply)),
                Err(ClientError::TimedOut(_)) => Some(Value::Null),
                Err(error) => return Err(error),
                Ok((status, reply)) => {
                    return Err(ClientError::Refused(status, body(&reply)));
                }
            };
            // Another call may have learned more while this one was under way.
            if unconfirmed.is_none()
                && let Some(view) = self.known(address).newest()
            {
                return Ok(view);
            }
            let now = Instant::now();
            if now >= until {
                return Err(ClientError::TimedOut(format!("the view of {address}")));
            }
            if let Some(told) = unconfirmed {
                sleep(pause(&told, until - now)).await;
            }
        }
    }

    /// Notes a version that this client heard of elsewhere, such as by a push on `live.>`: no view
    /// older than that is returned any more.
    pub fn heard(&self, address: &Address, version: impl Into<EraVersion>) {
        self.learn(address, version.into(), None);
    }

    fn known(&self, address: &Address) -> KnownView {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(address).cloned().unwrap_or_default()
    }

    pub(super) fn learn(
        &self,
        address: &Address,
        version: EraVersion,
        view: Option<ConfirmedView>,
    ) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MAX_KNOWN && !known.contains_key(address) {
            // Whole views are only kept to save work, and versions of what was touched long ago say
            // nothing that the servers do not: they confirm every read.
            known.clear();
        }
        let known = known.entry(address.clone()).or_default();
        known.version = known.version.max(version);
        let newer =
            |view: &ConfirmedView| known.view.as_ref().is_none_or(|old| old.version < view.version);
        if let Some(view) = view.filter(newer) {
            known.view = Some(view);
        }
    }
}

fn read_view(reply: &async_nats::Message) -> Result<ConfirmedView, ClientError> {
    let unreadable = |what: &str| ClientError::Unreadable(format!("a view without {what}"));
    let etag = reply.headers.as_ref().and_then(|headers| headers.get(ETAG));
    let version = etag.and_then(|etag| EraVersion::of_etag(etag.as_str()));
    let version = version.ok_or_else(|| unreadable("ETag"))?;
    Ok(ConfirmedView { version, body: body(reply) })
}
