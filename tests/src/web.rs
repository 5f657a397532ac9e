use std::{net::IpAddr, time::Duration};

use bytes::Bytes;
use reqwest::{Client, Method, RequestBuilder, header::HeaderMap};
use serde_json::{Value, json};

/// A program outside that speaks HTTP to one restaurant: knows paths and JSON, and none of
/// brigade's types.
#[derive(Clone)]
pub struct Web {
    client: Client,
    /// `http://<address>`.
    pub base: String,
    pub tenant: String,
    /// The access token that it shows.
    pub token: Option<String>,
}

/// An answer.
#[derive(Clone, Debug)]
pub struct Page {
    pub status: u16,
    pub headers: HeaderMap,
    pub bytes: Bytes,
}

impl Page {
    /// The body; null where it is no JSON.
    #[must_use]
    pub fn body(&self) -> Value {
        serde_json::from_slice(&self.bytes).unwrap_or_default()
    }

    /// The `code` of a problem or an outcome.
    #[must_use]
    pub fn code(&self) -> String {
        self.body()["code"].as_str().unwrap_or_default().to_owned()
    }

    /// The first value of a header, empty where there is none.
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

/// What a user logs in with.
#[must_use]
pub fn credentials(user: &str) -> Value {
    json!({"email": format!("{user}@example.org"), "password": PASSWORD})
}

fn client(from: Option<IpAddr>) -> Client {
    // None of the environment's proxies: the town is on this machine.
    let client = Client::builder().no_proxy().timeout(Duration::from_secs(60)).local_address(from);
    client.build().expect("a client")
}

impl Web {
    /// Shows no token yet.
    ///
    /// # Panics
    /// Where there is no client to be had.
    #[must_use]
    pub fn new(base: String, tenant: &str) -> Self {
        Self { client: client(None), base, tenant: tenant.to_owned(), token: None }
    }

    /// The same from another address of this machine.
    ///
    /// # Panics
    /// Where there is no client to be had.
    #[must_use]
    pub fn from(&self, address: IpAddr) -> Self {
        Self { client: client(Some(address)), ..self.clone() }
    }

    /// The same with another token.
    #[must_use]
    pub fn with_token(&self, token: &str) -> Self {
        Self { token: Some(token.to_owned()), ..self.clone() }
    }

    /// The same at another address: `http://<address>`.
    #[must_use]
    pub fn at(&self, base: String) -> Self {
        Self { base, ..self.clone() }
    }

    /// The same at another restaurant.
    #[must_use]
    pub fn of(&self, tenant: &str) -> Self {
        Self { tenant: tenant.to_owned(), ..self.clone() }
    }

    /// A request under `/v1/<tenant>/`, with the token, and nothing else yet.
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let url = format!("{}/v1/{}/{path}", self.base, self.tenant);
        let request = self.client.request(method, url);
        match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    /// Sends it.
    ///
    /// # Panics
    /// Where there is no answer.
    pub async fn send(&self, request: RequestBuilder) -> Page {
        let answer = request.send().await.expect("an answer");
        let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
        Page { status, headers, bytes: answer.bytes().await.expect("a body") }
    }

    /// What stands at a path beside the API.
    ///
    /// # Panics
    /// Where there is no answer.
    pub async fn text(&self, path: &str) -> String {
        let answer = self.client.get(format!("{}{path}", self.base)).send().await;
        answer.expect("an answer").text().await.expect("text")
    }

    /// A query, with headers as they are given.
    pub async fn get(&self, path: &str, headers: &[(&str, &str)]) -> Page {
        let request = self.request(Method::GET, path);
        let with =
            headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        self.send(with).await
    }

    /// The same with the token of a new session of this user, who is registered.
    ///
    /// # Panics
    /// Where there is none to be had.
    pub async fn logged_in(&self, user: &str) -> Self {
        let session = self.post(&format!("user/{user}/login"), &credentials(user)).await;
        assert_eq!(session.status, 200, "{:?}", session.body());
        self.with_token(session.body()["data"]["access_token"].as_str().expect("a token"))
    }

    /// Registers a user and logs in.
    ///
    /// # Panics
    /// Where that is refused.
    pub async fn newcomer(&self, user: &str) -> Self {
        let mut who = credentials(user);
        who["profile_id"] = "p1".into();
        let registered = self.post(&format!("user/{user}/register"), &who).await;
        assert_eq!(registered.status, 201, "{:?}", registered.body());
        self.logged_in(user).await
    }

    /// A command, under a new Command-Id: `cart/c1/open`.
    pub async fn post(&self, path: &str, payload: &Value) -> Page {
        self.post_as(&uuid::Uuid::now_v7().to_string(), path, payload).await
    }

    /// A command under this Command-Id.
    pub async fn post_as(&self, command_id: &str, path: &str, payload: &Value) -> Page {
        let request = self.request(Method::POST, path).header("Idempotency-Key", command_id);
        self.send(request.json(payload)).await
    }
}
