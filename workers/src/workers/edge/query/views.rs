//! Queries of views: all parts of an aggregate, of a version that SQL confirms.

use std::{ops::ControlFlow, sync::Arc};

use brigade_contracts::{
    Address, Era, Refusal,
    key::{self, Bucket},
    planted::PlantedBug,
    query::ViewHeaders,
};

use super::{
    batch_loader::BatchLoader,
    content::{CacheLookup, ContentCache, EncodedView, ViewBodyLoader},
    database::ReadDatabase,
    long_poll::LongPolls,
    reply::QueryReply,
    versions::{ConfirmedVersions, VersionLoader},
};
use crate::{
    infra::{Context, FailPoints, Kv},
    workers::edge::metrics::{ContentSource, EdgeMetrics},
};

/// The number of times that a version is confirmed again because its content is a later one.
const CONFIRM_RETRIES: usize = 2;

/// Answers queries of views.
pub struct Views {
    era: Era,
    versions: BatchLoader<VersionLoader>,
    bodies: BatchLoader<ViewBodyLoader>,
    content: ContentCache,
    /// The counters in KV, which confirm a version while Postgres is unavailable, if the query
    /// allows it.
    counters: Kv,
    polls: LongPolls,
    metrics: Arc<EdgeMetrics>,
    fail: FailPoints,
}

/// A version that a response may have, and its source.
struct Confirmation {
    versions: ConfirmedVersions,
    /// The counters in KV confirmed it, because Postgres is unavailable.
    by_kv: bool,
}

impl Views {
    /// Opens the buckets `views` and `versions`.
    ///
    /// # Errors
    /// Never in practice: see [`Kv::open`].
    pub async fn open(
        database: &Arc<ReadDatabase>,
        cx: &Context,
        polls: LongPolls,
        metrics: Arc<EdgeMetrics>,
    ) -> anyhow::Result<Self> {
        let loader = VersionLoader { metrics: metrics.clone() };
        Ok(Self {
            era: cx.era,
            versions: BatchLoader::new(database, loader),
            bodies: BatchLoader::new(database, ViewBodyLoader),
            content: ContentCache::open(&cx.nats, cx.era).await?,
            counters: Kv::open(&cx.nats, cx.era, Bucket::Versions).await?,
            polls,
            metrics,
            fail: cx.fail.clone(),
        })
    }

    /// Returns the view of an aggregate, or `304` if the client has it.
    ///
    /// # Errors
    /// `404 not_found`; `504 version_not_reached`; `503 unconfirmed`; those of
    /// [`LongPolls::poll_until`].
    pub async fn get(
        &self,
        address: &Address,
        headers: &ViewHeaders,
    ) -> Result<QueryReply, QueryReply> {
        if PlantedBug::UnconfirmedFromMemory.is_planted()
            && let Some(body) = self.content.remembered(address)
        {
            return match body.versions.version {
                version if headers.has(self.era.at(version)) => Ok(self.not_modified(version)),
                _ => Ok(self.reply(&body, ContentSource::Memory)),
            };
        }
        // Read before the version is confirmed: what is seen meanwhile may well be later.
        let seen = self.content.highest_seen(address);
        let mut confirmed = self.confirm_reached(address, headers).await?;
        for _ in 0..=CONFIRM_RETRIES {
            self.fail.point("edge.after_confirm").await;
            let Confirmation { versions, by_kv } = &confirmed;
            if versions.version < seen {
                return self.recover_lost_version(address, headers, &confirmed, seen).await;
            }
            if headers.has(self.era.at(versions.version)) {
                let not_modified = self.not_modified(versions.version);
                return Ok(QueryReply { by_kv: *by_kv, ..not_modified });
            }
            match self.content.find(address, versions).await {
                CacheLookup::Exact(body, source) => {
                    return Ok(QueryReply { by_kv: *by_kv, ..self.reply(&body, source) });
                }
                CacheLookup::Later => {
                    confirmed = self.confirm(address, headers.confirm_by_kv).await?;
                }
                CacheLookup::Missing => break,
            }
        }
        let body = self.read(address).await?;
        match body.versions.version {
            version if !headers.reached(self.era.at(version)) => {
                Err(QueryReply::not_reached(version))
            }
            version if headers.has(self.era.at(version)) => Ok(self.not_modified(version)),
            _ => Ok(self.reply(&body, ContentSource::Sql)),
        }
    }

    /// Returns the whole view from SQL, because the confirmed version is lower than one that was
    /// seen before the query came: a commit was lost. That must not happen, so it is logged, and
    /// no `304` is given.
    async fn recover_lost_version(
        &self,
        address: &Address,
        headers: &ViewHeaders,
        confirmed: &Confirmation,
        seen: u64,
    ) -> Result<QueryReply, QueryReply> {
        let confirmed_version = confirmed.versions.version;
        if !confirmed.by_kv {
            tracing::error!(%address, confirmed_version, seen, "a version was lost");
            if headers.has(self.era.at(confirmed_version)) {
                self.metrics.stale_304.inc();
            }
        }
        let body = self.read(address).await?;
        Ok(self.reply(&body, ContentSource::Sql))
    }

    /// Reads version and parts from SQL, in one statement.
    async fn read(&self, address: &Address) -> Result<Arc<EncodedView>, QueryReply> {
        let body = self.bodies.load(address.clone()).await?.ok_or_else(not_found)?;
        self.content.insert(address, &body);
        Ok(body)
    }

    fn not_modified(&self, version: u64) -> QueryReply {
        QueryReply::not_modified(self.era.at(version).etag())
    }

    fn reply(&self, body: &EncodedView, source: ContentSource) -> QueryReply {
        self.metrics.content_from.with_label_values(&[source.as_str()]).inc();
        let etag = self.era.at(body.versions.version).etag();
        QueryReply { etag: Some(etag), ..QueryReply::ok(body.bytes.clone()) }
    }

    /// Confirms a version; with `Min-Version` waits for one that has reached it.
    async fn confirm_reached(
        &self,
        address: &Address,
        headers: &ViewHeaders,
    ) -> Result<Confirmation, QueryReply> {
        let wake_subject = Bucket::Versions.live(&key::versions(address));
        let evaluate = async || {
            let confirmed = self.confirm(address, headers.confirm_by_kv).await;
            match &confirmed {
                Ok(now) if headers.reached(self.era.at(now.versions.version)) => {
                    ControlFlow::Break(confirmed)
                }
                Ok(_) => ControlFlow::Continue(confirmed),
                // An aggregate that does not exist yet may be waited for.
                Err(reply) if reply.status == 404 && self.may_come(headers) => {
                    ControlFlow::Continue(confirmed)
                }
                Err(_) => ControlFlow::Break(confirmed),
            }
        };
        let polled = self.polls.poll_until(&address.tenant, headers.wait, wake_subject, evaluate);
        let confirmed = polled.await??;
        let version = confirmed.versions.version;
        if headers.reached(self.era.at(version)) {
            Ok(confirmed)
        } else {
            Err(QueryReply { by_kv: confirmed.by_kv, ..QueryReply::not_reached(version) })
        }
    }

    /// Returns whether an aggregate that is not there is waited for: not if it was there in another
    /// era, and lost.
    fn may_come(&self, headers: &ViewHeaders) -> bool {
        headers.min_version.is_some_and(|min| min.era == self.era)
    }

    async fn confirm(&self, address: &Address, or_by_kv: bool) -> Result<Confirmation, QueryReply> {
        match self.versions.load(address.clone()).await {
            Ok(Some(versions)) => {
                self.content.record_seen(address, versions.version);
                Ok(Confirmation { versions, by_kv: false })
            }
            Ok(None) => Err(not_found()),
            Err(_) if or_by_kv => self.confirm_by_kv(address).await,
            Err(error) => Err(error.into()),
        }
    }

    /// Confirms a version with the counters in KV. That a counter is absent proves nothing.
    async fn confirm_by_kv(&self, address: &Address) -> Result<Confirmation, QueryReply> {
        let entry = self.counters.get(&key::versions(address)).await;
        let entry = entry.ok().flatten().ok_or_else(QueryReply::unconfirmed)?;
        let key::Versions { version, parts, .. } =
            serde_json::from_slice(&entry.value).map_err(|_| QueryReply::unconfirmed())?;
        self.content.record_seen(address, version);
        Ok(Confirmation { versions: ConfirmedVersions { version, parts }, by_kv: true })
    }
}

fn not_found() -> QueryReply {
    Refusal::new(404, "not_found", "there is no such thing").into()
}
