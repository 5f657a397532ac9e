use std::time::Duration;

use anyhow::{Context, Result, ensure};
use async_nats::{HeaderMap, Request};
use brigade_contracts::{WorkerName, header};
use reqwest::{Client, RequestBuilder, Response, header::ETAG};
use serde_json::{Value, json};

use super::{fleet::BenchFleet, mix::MixCommand};

const PASSWORD: &str = "correct-horse-battery-staple";

/// A program outside that speaks HTTP to edge, as staff of the restaurant `t0`.
#[derive(Clone)]
pub struct Web {
    client: Client,
    base: String,
    admin: String,
    access_token: String,
}

impl Web {
    /// # Errors
    /// If nobody can log in.
    pub async fn open(fleet: &BenchFleet) -> Result<Self> {
        let edge = fleet.workers.iter().find(|worker| worker.name == WorkerName::Edge.as_str());
        let edge = edge.context("edge runs")?;
        let (base, admin) = (format!("http://{}", edge.http()), format!("http://{}", edge.admin()));
        let credentials = json!({ "email": "staff@example.org", "password": PASSWORD });
        let mut register = credentials.clone();
        register["profile_id"] = "staff".into();
        ask(fleet, "register", &register).await?;
        ask(fleet, "change_roles", &json!({ "roles": ["staff"] })).await?;
        let session = ask(fleet, "login", &credentials).await?;
        let access_token = session["data"]["access_token"].as_str().context("a token")?.to_owned();
        Ok(Self { client: Client::builder().no_proxy().build()?, base, admin, access_token })
    }

    /// A request that edge's process answers without doing anything.
    ///
    /// # Errors
    /// If it does not.
    pub async fn bare(&self) -> Result<()> {
        let answer = self.client.get(format!("{}/livez", self.admin)).send().await?;
        ensure!(answer.status() == 200, "livez: {}", answer.status());
        answer.bytes().await?;
        Ok(())
    }

    /// The whole answer, and its ETag.
    ///
    /// # Errors
    /// Another status than the expected one.
    pub async fn get(&self, path: &str, etag: &str, status: u16) -> Result<(String, String)> {
        let answer = self.asks(path).header("If-None-Match", etag).send().await?;
        ensure!(answer.status() == status, "{path}: {}", answer.status());
        let etag = answer.headers().get(ETAG).context("no ETag")?.to_str()?.to_owned();
        Ok((answer.text().await?, etag))
    }

    /// The list and its ETag, unless it is still the one that is known.
    ///
    /// # Errors
    /// If there is no such answer.
    pub async fn list(&self, etag: &str) -> Result<Option<(String, String)>> {
        let answer = self.asks("/v1/t0/active-orders").header("If-None-Match", etag).send().await?;
        if answer.status() == 304 {
            return Ok(None);
        }
        ensure!(answer.status() == 200, "the list: {}", answer.status());
        let etag = answer.headers().get(ETAG).context("no ETag")?.to_str()?.to_owned();
        Ok(Some((answer.text().await?, etag)))
    }

    /// Server-sent events.
    ///
    /// # Errors
    /// If edge does not take the reader.
    pub async fn stream(&self, path: &str) -> Result<Response> {
        let answer = self.asks(path).send().await?;
        ensure!(answer.status() == 200, "{path}: {}", answer.status());
        Ok(answer)
    }

    /// A command of any tenant, as whom an open edge trusts. Returns the status.
    ///
    /// # Errors
    /// If there is no answer.
    pub async fn send(&self, command: &MixCommand) -> Result<String> {
        let MixCommand { id, tenant, what, payload, .. } = command;
        let path = format!("{}/v1/t{tenant}/{}", self.base, what.replace('.', "/"));
        let request = self.client.post(path).header(header::COMMAND_ID, id);
        let answer = request.body(payload.clone()).timeout(Duration::from_secs(30)).send().await?;
        let status = answer.status().as_str().to_owned();
        answer.bytes().await?;
        Ok(status)
    }

    fn asks(&self, path: &str) -> RequestBuilder {
        self.client.get(format!("{}{path}", self.base)).bearer_auth(&self.access_token)
    }
}

/// A command about the user, on the request door.
async fn ask(fleet: &BenchFleet, verb: &str, payload: &Value) -> Result<Value> {
    let mut headers = HeaderMap::new();
    headers.insert(header::COMMAND_ID, verb);
    let request = Request::new().headers(headers).payload(payload.to_string().into());
    let request = request.timeout(Some(Duration::from_secs(30)));
    let subject = format!("req.t0.user.staff.{verb}");
    let outcome = fleet.operator.client().send_request(subject, request).await?;
    Ok(serde_json::from_slice(&outcome.payload)?)
}
