//! What an aggregate shows.

use std::{ops::ControlFlow, sync::Arc};

use brigade_contracts::{
    Address, Outcome, Refusal,
    key::{self, Bucket},
    query::ViewHeaders,
};

use super::{
    Edge,
    confirm::Versions,
    content::{Body, Found},
    reply::Reply,
};
/// How often a version is confirmed again because its content is already a later one.
const CONFIRM_AGAIN: usize = 2;

/// What a query may be answered with.
struct Confirmed {
    versions: Versions,
    /// By the counters in KV, because Postgres is away.
    by_kv: bool,
}

impl Edge {
    pub(super) async fn view(
        &self,
        address: &Address,
        asked: &ViewHeaders,
    ) -> Result<Reply, Reply> {
        // Read before the version is confirmed: what is seen meanwhile may well be later.
        let seen = self.content.seen(address);
        let mut confirmed = self.confirm_reached(address, asked).await?;
        for _ in 0..=CONFIRM_AGAIN {
            self.cx.fail.point("edge.after_confirm").await;
            let Confirmed { versions, by_kv } = &confirmed;
            if versions.version < seen {
                return self.behind(address, asked, &confirmed, seen).await;
            }
            if asked.has(versions.version) {
                return Ok(Reply { by_kv: *by_kv, ..not_modified(versions.version) });
            }
            match self.content.find(address, versions).await {
                Found::Exactly(body, from) => {
                    return Ok(Reply { by_kv: *by_kv, ..self.show(&body, from) });
                }
                Found::Later => confirmed = self.confirm(address, asked.confirm_by_kv).await?,
                Found::Nothing => break,
            }
        }
        let body = self.read(address).await?;
        match body.versions.version {
            version if !asked.reached(version) => Err(Reply::not_reached(version)),
            version if asked.has(version) => Ok(not_modified(version)),
            _ => Ok(self.show(&body, "sql")),
        }
    }

    /// The version that is confirmed is lower than one that was seen before the query came. That
    /// must not happen, so nothing is left out of the answer.
    async fn behind(
        &self,
        address: &Address,
        asked: &ViewHeaders,
        confirmed: &Confirmed,
        seen: u64,
    ) -> Result<Reply, Reply> {
        let confirmed_version = confirmed.versions.version;
        if !confirmed.by_kv {
            tracing::error!(%address, confirmed_version, seen, "a version was lost");
            if asked.has(confirmed_version) {
                self.cx.metrics.stale_304.inc();
            }
        }
        let body = self.read(address).await?;
        Ok(self.show(&body, "sql"))
    }

    /// Version and parts from SQL, in one statement.
    async fn read(&self, address: &Address) -> Result<Arc<Body>, Reply> {
        match self.reader.get(address.clone()).await {
            Ok(Some(body)) => {
                self.content.keep(address, &body);
                Ok(body)
            }
            Ok(None) => Err(not_found()),
            Err(_) => Err(Reply::unconfirmed()),
        }
    }

    fn show(&self, body: &Body, from: &str) -> Reply {
        self.cx.metrics.content_from.with_label_values(&[from]).inc();
        let etag = Outcome::etag_of(body.versions.version);
        Reply { etag: Some(etag), ..Reply::ok(body.bytes.clone()) }
    }

    /// Confirms a version; with `Min-Version` one that has reached it.
    async fn confirm_reached(
        &self,
        address: &Address,
        asked: &ViewHeaders,
    ) -> Result<Confirmed, Reply> {
        let wake_on = Bucket::Versions.live(&key::versions(address));
        let ask = async || {
            let confirmed = self.confirm(address, asked.confirm_by_kv).await;
            match &confirmed {
                Ok(now) if asked.reached(now.versions.version) => ControlFlow::Break(confirmed),
                Ok(_) => ControlFlow::Continue(confirmed),
                // What does not exist yet may be waited for.
                Err(reply) if reply.status == 404 && asked.min_version.is_some() => {
                    ControlFlow::Continue(confirmed)
                }
                Err(_) => ControlFlow::Break(confirmed),
            }
        };
        let confirmed = self.ask_until(&address.tenant, asked.wait, wake_on, ask).await??;
        let version = confirmed.versions.version;
        if asked.reached(version) {
            Ok(confirmed)
        } else {
            Err(Reply { by_kv: confirmed.by_kv, ..Reply::not_reached(version) })
        }
    }

    async fn confirm(&self, address: &Address, or_by_kv: bool) -> Result<Confirmed, Reply> {
        match self.confirmer.get(address.clone()).await {
            Ok(Some(versions)) => {
                self.content.see(address, versions.version);
                Ok(Confirmed { versions, by_kv: false })
            }
            Ok(None) => Err(not_found()),
            Err(_) if or_by_kv => self.confirm_by_kv(address).await,
            Err(_) => Err(Reply::unconfirmed()),
        }
    }

    /// The counters in KV say which version there was; that one is absent says nothing.
    async fn confirm_by_kv(&self, address: &Address) -> Result<Confirmed, Reply> {
        let entry = self.versions.get(&key::versions(address)).await;
        let entry = entry.ok().flatten().ok_or_else(Reply::unconfirmed)?;
        let key::Versions { version, parts, .. } =
            serde_json::from_slice(&entry.value).map_err(|_| Reply::unconfirmed())?;
        self.content.see(address, version);
        Ok(Confirmed { versions: Versions { version, parts }, by_kv: true })
    }
}

fn not_modified(version: u64) -> Reply {
    Reply::not_modified(Outcome::etag_of(version))
}

fn not_found() -> Reply {
    Refusal::new(404, "not_found", "there is no such thing").into()
}
