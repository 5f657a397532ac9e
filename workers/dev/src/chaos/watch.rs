//! Those who only look: pushes on `live.versions.…`, and the streams of active orders over HTTP,
//! each continued at its position after every break.

use std::{sync::Arc, time::Duration};

use anyhow::Result;
use brigade::infra::unstamp;
use brigade_contracts::{Token, permissions};
use futures::StreamExt;
use serde_json::Value;
use tokio::{task::JoinSet, time::timeout};
use tokio_util::sync::CancellationToken;

use super::{
    doors::any_edge,
    fleet::{ChaosFleet, Edges, TENANTS, connect},
    history::{KeyVersion, Operation, OperationHistory, OperationResult, Way},
};

/// The first number of those who look.
const NUMBER: u32 = 500;
/// A stream that says nothing for so long is opened again; it has a heartbeat every 5 s.
const SILENCE: Duration = Duration::from_secs(8);
const PAUSE: Duration = Duration::from_millis(200);

/// An event that tells of a change.
const TOLD: &str = "told";
/// An event that tells everything, so that nothing that was known counts any more.
pub const TOLD_ANEW: &str = "told anew";

/// Two of a tenant, one a way.
pub struct Watchers {
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

impl Watchers {
    /// Starts to look.
    ///
    /// # Errors
    /// If nats-server does not let it in.
    pub async fn start(fleet: &ChaosFleet, history: &OperationHistory) -> Result<Self> {
        let (stop, mut tasks) = (CancellationToken::new(), JoinSet::new());
        for (number, tenant) in (NUMBER..).step_by(2).zip(TENANTS) {
            let user = permissions::producer(&Token::new(tenant)?).name;
            let client = connect(&fleet.stack, &user).await?;
            let pushes = client.subscribe(format!("live.versions.{tenant}.>")).await?;
            client.flush().await?;
            let told = PushedVersion { number, tenant: tenant.into(), history: history.clone() };
            let follow = told.clone().follow_pushes(client, pushes);
            tasks.spawn(until(stop.clone(), follow));
            let told = PushedVersion { number: number + 1, ..told };
            tasks.spawn(until(stop.clone(), told.follow_stream(fleet.edges.clone())));
        }
        Ok(Self { stop, tasks })
    }

    pub async fn stop(mut self) {
        self.stop.cancel();
        while self.tasks.join_next().await.is_some() {}
    }
}

async fn until(stop: CancellationToken, follow: impl Future<Output = ()>) {
    stop.run_until_cancelled(follow).await;
}

/// A watcher, whose pushes go into the history.
#[derive(Clone)]
struct PushedVersion {
    number: u32,
    tenant: Arc<str>,
    history: OperationHistory,
}

impl PushedVersion {
    fn record(&self, way: Way, verb: &str, version: KeyVersion) {
        let now = self.history.now();
        self.history.record(Operation {
            client: self.number,
            way,
            tenant: self.tenant.clone(),
            key: version.key.as_str().into(),
            verb: verb.into(),
            command_id: None,
            token: None,
            begun: now,
            ended: now,
            answer: OperationResult::Versions { status: 200, of: vec![version] },
        });
    }

    /// The client is kept, and with it the subscription.
    async fn follow_pushes(self, _client: async_nats::Client, mut pushes: async_nats::Subscriber) {
        let prefix = format!("live.versions.{}.", self.tenant);
        while let Some(push) = pushes.next().await {
            // One without a payload tells that the key has expired.
            let (era, value) = unstamp(&push.payload);
            let value: Value = serde_json::from_slice(&value).unwrap_or_default();
            if let (Some(key), Some(version)) =
                (push.subject.strip_prefix(&prefix), value["version"].as_u64())
            {
                self.record(Way::Push, TOLD, KeyVersion::new(key, era.at(version)));
            }
        }
    }

    async fn follow_stream(self, edges: Edges) {
        let http = reqwest::Client::builder().no_proxy().build().unwrap_or_default();
        let mut position = None;
        loop {
            if let Some(edge) = any_edge(&edges) {
                let url = format!("http://{edge}/v1/{}/active-orders/stream", self.tenant);
                let request = http.get(url);
                let last = position.iter();
                let request =
                    last.fold(request, |with, id: &String| with.header("Last-Event-ID", id));
                if let Ok(Ok(response)) = timeout(SILENCE, request.send()).await {
                    self.read(response, &mut position).await;
                }
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn read(&self, mut response: reqwest::Response, position: &mut Option<String>) {
        let (mut text, mut kind) = (Vec::new(), TOLD);
        while let Ok(Ok(Some(chunk))) = timeout(SILENCE, response.chunk()).await {
            text.extend_from_slice(&chunk);
            while let Some(end) = text.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = text.drain(..=end).collect();
                let line = String::from_utf8_lossy(&line);
                if let Some(id) = line.strip_prefix("id:") {
                    *position = Some(id.trim().to_owned());
                }
                if let Some(name) = line.strip_prefix("event:") {
                    kind = if name.trim() == "change" { TOLD } else { TOLD_ANEW };
                }
                if let Some(data) = line.strip_prefix("data:") {
                    self.rows(kind, &serde_json::from_str(data).unwrap_or_default());
                }
            }
        }
    }

    /// A change is a row; a snapshot and a reset have several.
    fn rows(&self, kind: &str, data: &Value) {
        let of_list = data["rows"].as_array();
        for row in of_list.map_or(std::slice::from_ref(data), Vec::as_slice) {
            if let (Some(order), Some(version)) = (row["order"].as_str(), row["version"].as_u64()) {
                let key = format!("order.{order}#core");
                self.record(Way::Stream, kind, KeyVersion { key, era: None, version });
            }
        }
    }
}
