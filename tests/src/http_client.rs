//! A client of the restaurants over HTTP.

use std::{net::IpAddr, time::Duration};

use bytes::Bytes;
use reqwest::{Client, Method, RequestBuilder, header::HeaderMap};
use serde_json::{Value, json};

/// A client of one restaurant over HTTP, which knows paths and JSON and none of brigade's types.
#[derive(Clone)]
pub struct HttpClient {
    client: Client,
    /// `http://<address>`.
    pub base: String,
    pub tenant: String,
    /// The access token that it sends.
    pub token: Option<String>,
}

/// An answer over HTTP.
#[derive(Clone, Debug)]
pub struct HttpResponse {
    pub status: u16,
    pub headers: HeaderMap,
    pub bytes: Bytes,
}

impl HttpResponse {
    /// Returns the body; null where it is no JSON.
    #[must_use]
    pub fn body(&self) -> Value {
        serde_json::from_slice(&self.bytes).unwrap_or_default()
    }

    /// Returns the `code` of a problem or an outcome; empty where there is none.
    #[must_use]
    pub fn code(&self) -> String {
        self.body()["code"].as_str().unwrap_or_default().to_owned()
    }

    /// Returns the first value of a header; empty where there is none.
    #[must_use]
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    #[must_use]
    pub fn etag(&self) -> &str {
        self.header("etag")
    }
}

/// The password of every user.
pub const PASSWORD: &str = "correct-horse-battery-staple";

/// Returns the payload of a user's `login`.
#[must_use]
pub fn credentials(user: &str) -> Value {
    json!({"email": format!("{user}@example.org"), "password": PASSWORD})
}

fn client(from: Option<IpAddr>) -> Client {
    // No proxy of the environment: the fleet is on this machine.
    let client = Client::builder().no_proxy().timeout(Duration::from_secs(60)).local_address(from);
    client.build().expect("a client")
}

impl HttpClient {
    /// Returns a client without a token.
    ///
    /// # Panics
    /// Where no client can be made.
    #[must_use]
    pub fn new(base: String, tenant: &str) -> Self {
        Self { client: client(None), base, tenant: tenant.to_owned(), token: None }
    }

    /// Returns the same client at another address of this machine.
    ///
    /// # Panics
    /// Where no client can be made.
    #[must_use]
    pub fn from(&self, address: IpAddr) -> Self {
        Self { client: client(Some(address)), ..self.clone() }
    }

    /// Returns the same client with another token.
    #[must_use]
    pub fn with_token(&self, token: &str) -> Self {
        Self { token: Some(token.to_owned()), ..self.clone() }
    }

    /// Returns the same client of another server: `http://<address>`.
    #[must_use]
    pub fn at(&self, base: String) -> Self {
        Self { base, ..self.clone() }
    }

    /// Returns the same client of another restaurant.
    #[must_use]
    pub fn of(&self, tenant: &str) -> Self {
        Self { tenant: tenant.to_owned(), ..self.clone() }
    }

    /// Begins a request under `/v1/<tenant>/`, with the token.
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let url = format!("{}/v1/{}/{path}", self.base, self.tenant);
        let request = self.client.request(method, url);
        match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    /// Sends a request.
    ///
    /// # Panics
    /// Where there is no answer.
    pub async fn send(&self, request: RequestBuilder) -> HttpResponse {
        let answer = request.send().await.expect("an answer");
        let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
        HttpResponse { status, headers, bytes: answer.bytes().await.expect("a body") }
    }

    /// Returns the text at a path of this server, such as `/metrics`.
    ///
    /// # Panics
    /// Where there is no answer.
    pub async fn text(&self, path: &str) -> String {
        let answer = self.client.get(format!("{}{path}", self.base)).send().await;
        answer.expect("an answer").text().await.expect("text")
    }

    /// Sends a query with these headers.
    pub async fn get(&self, path: &str, headers: &[(&str, &str)]) -> HttpResponse {
        let request = self.request(Method::GET, path);
        let with =
            headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        self.send(with).await
    }

    /// Logs a registered user in; returns the same client with the token of the new session.
    ///
    /// # Panics
    /// Where that is refused.
    pub async fn log_in(&self, user: &str) -> Self {
        let session = self.post(&format!("user/{user}/login"), &credentials(user)).await;
        assert_eq!(session.status, 200, "{:?}", session.body());
        self.with_token(session.body()["data"]["access_token"].as_str().expect("a token"))
    }

    /// Registers a user and logs in, as [`HttpClient::log_in`] does.
    ///
    /// # Panics
    /// Where that is refused.
    pub async fn register_and_log_in(&self, user: &str) -> Self {
        let mut who = credentials(user);
        who["profile_id"] = "p1".into();
        let registered = self.post(&format!("user/{user}/register"), &who).await;
        assert_eq!(registered.status, 201, "{:?}", registered.body());
        self.log_in(user).await
    }

    /// Sends a command, such as `cart/c1/open`, under a new Command-Id.
    pub async fn post(&self, path: &str, payload: &Value) -> HttpResponse {
        self.post_as(&uuid::Uuid::now_v7().to_string(), path, payload).await
    }

    /// Sends a command under this Command-Id.
    pub async fn post_as(&self, command_id: &str, path: &str, payload: &Value) -> HttpResponse {
        let request = self.request(Method::POST, path).header("Idempotency-Key", command_id);
        self.send(request.json(payload)).await
    }
}
