//! A client of the restaurants over NATS.

use std::time::Duration;

use async_nats::HeaderMap;
use futures::{StreamExt, future::join_all};
use serde_json::Value;

/// A client of one restaurant over NATS, which knows subjects and JSON and none of brigade's types.
#[derive(Clone)]
pub struct Producer {
    pub client: async_nats::Client,
    pub tenant: String,
}

/// An answer over NATS.
#[derive(Clone, Debug, PartialEq)]
pub struct Reply {
    pub status: u16,
    pub etag: Option<String>,
    pub headers: Vec<(String, String)>,
    pub bytes: Vec<u8>,
}

impl Reply {
    /// Returns the body; null where it is no JSON.
    #[must_use]
    pub fn body(&self) -> Value {
        serde_json::from_slice(&self.bytes).unwrap_or_default()
    }

    /// Returns the `code` of an outcome or an error; empty where there is none.
    #[must_use]
    pub fn code(&self) -> String {
        self.body()["code"].as_str().unwrap_or_default().to_owned()
    }
}

impl Producer {
    #[must_use]
    pub fn new(client: async_nats::Client, tenant: &str) -> Self {
        Self { client, tenant: tenant.to_owned() }
    }

    /// Sends a request with these headers; returns `None` where nobody answers within 10 s.
    pub async fn request(
        &self,
        subject: &str,
        headers: &[(&str, &str)],
        payload: &[u8],
    ) -> Option<Reply> {
        self.request_within(Duration::from_secs(10), subject, headers, payload).await
    }

    /// Sends a request with these headers; returns `None` where nobody answers in time.
    pub async fn request_within(
        &self,
        timeout: Duration,
        subject: &str,
        headers: &[(&str, &str)],
        payload: &[u8],
    ) -> Option<Reply> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, *value);
        }
        let request = async_nats::Request::new()
            .headers(map)
            .payload(payload.to_vec().into())
            .timeout(Some(timeout));
        let message = self.client.send_request(subject.to_owned(), request).await.ok()?;
        let header = |name: &str| {
            let value = message.headers.as_ref()?.get(name)?;
            Some(value.as_str().to_owned())
        };
        let headers =
            message.headers.iter().flat_map(HeaderMap::iter).flat_map(|(name, values)| {
                values.iter().map(move |value| (name.to_string(), value.as_str().to_owned()))
            });
        // The client keeps them in no order.
        let mut headers: Vec<_> = headers.collect();
        headers.sort();
        Some(Reply {
            status: header("Brigade-Status")?.parse().ok()?,
            etag: header("ETag"),
            headers,
            bytes: message.payload.to_vec(),
        })
    }

    /// Sends a command on the request door under this Command-Id.
    ///
    /// # Panics
    /// Where nobody answers.
    pub async fn send_as(&self, command_id: &str, what: &str, payload: Value) -> Reply {
        let subject = format!("req.{}.{what}", self.tenant);
        let headers = [("Command-Id", command_id)];
        let reply = self.request(&subject, &headers, payload.to_string().as_bytes()).await;
        reply.unwrap_or_else(|| panic!("no answer to {what}"))
    }

    /// Sends a command, such as `cart.c1.open`, on the request door under a new Command-Id.
    pub async fn send(&self, what: &str, payload: Value) -> Reply {
        self.send_as(&uuid::Uuid::now_v7().to_string(), what, payload).await
    }

    /// Sends a command under this Command-Id until there is an answer other than 503.
    pub async fn send_until_decided(&self, command_id: &str, what: &str, payload: Value) -> Reply {
        let subject = format!("req.{}.{what}", self.tenant);
        let payload = payload.to_string();
        crate::until(&format!("a decision about {what}"), || async {
            let headers = [("Command-Id", command_id)];
            // A handler that was killed answers nothing: ask the next one soon.
            let one_try = Duration::from_millis(500);
            let reply =
                self.request_within(one_try, &subject, &headers, payload.as_bytes()).await?;
            (reply.status != 503).then_some(reply)
        })
        .await
    }

    /// Sends a command on the durable door and returns its outcome: subscribes, publishes, waits
    /// for the PubAck, then for the outcome.
    ///
    /// # Panics
    /// Where the stream refuses it, or no outcome comes.
    pub async fn publish(&self, command_id: &str, what: &str, payload: Value) -> Value {
        let subject = format!("outcome.{}.{command_id}", self.tenant);
        let mut outcomes = self.client.subscribe(subject).await.expect("subscribed");
        self.store(command_id, what, &payload.to_string()).await;
        let outcome = tokio::time::timeout(crate::PATIENCE, outcomes.next()).await;
        let outcome = outcome.expect("an outcome in time").expect("an outcome");
        serde_json::from_slice(&outcome.payload).expect("JSON")
    }

    /// Sends a command on the durable door and waits for the PubAck only.
    ///
    /// # Panics
    /// Where the stream refuses it.
    pub async fn store(&self, command_id: &str, what: &str, payload: &str) {
        let mut headers = HeaderMap::new();
        headers.insert("Command-Id", command_id);
        let js = async_nats::jetstream::new(self.client.clone());
        let subject = format!("cmd.{}.{what}", self.tenant);
        let sent = js.publish_with_headers(subject, headers, payload.to_owned().into()).await;
        sent.expect("sent").await.expect("a PubAck");
    }

    /// Queries a view, such as `cart.c1`, with `If-None-Match`; repeats a query that is 503.
    ///
    /// # Panics
    /// Where nobody answers.
    pub async fn view(&self, what: &str, etag: Option<&str>) -> Reply {
        let subject = format!("q.{}.view.{what}", self.tenant);
        let headers: Vec<_> = etag.map(|etag| ("If-None-Match", etag)).into_iter().collect();
        self.query(&subject, &headers).await
    }

    /// Queries the active orders; repeats a query that is 503.
    ///
    /// # Panics
    /// Where nobody answers.
    pub async fn active_orders(&self, headers: &[(&str, &str)]) -> Reply {
        self.query(&format!("q.{}.active_orders", self.tenant), headers).await
    }

    /// Repeats a query that is 503: on a busy machine nothing can be confirmed for a moment.
    async fn query(&self, subject: &str, headers: &[(&str, &str)]) -> Reply {
        crate::until(&format!("an answer to {subject}"), || async {
            let reply = self.request(subject, headers, b"").await;
            let reply = reply.unwrap_or_else(|| panic!("no answer to {subject}"));
            (reply.status != 503).then_some(reply)
        })
        .await
    }

    /// Opens a team cart of `owner` and lets these members join.
    ///
    /// # Panics
    /// Where it is refused.
    pub async fn team_cart(&self, id: &str, owner: &str, members: &[&str]) {
        let open = serde_json::json!({"kind": "team", "owner": owner, "currency": "EUR"});
        assert_eq!(self.send(&format!("cart.{id}.open"), open).await.status, 201);
        for member in members {
            let join = serde_json::json!({ "user": member });
            assert_eq!(self.send(&format!("cart.{id}.join"), join).await.status, 200);
        }
    }

    /// Sends the same command `times` times at once.
    pub async fn all_at_once(
        &self,
        times: usize,
        command_id: &str,
        what: &str,
        payload: Value,
    ) -> Vec<Reply> {
        let send = |_| self.send_as(command_id, what, payload.clone());
        join_all((0..times).map(send)).await
    }
}

/// Returns a payload of `add_item`.
#[must_use]
pub fn item(id: &str, price: i64, quantity: i64) -> Value {
    serde_json::json!({
        "item_id": id, "sku": format!("sku-{id}"), "name": format!("Item {id}"),
        "unit_price": price, "quantity": quantity,
    })
}

/// Returns a payload of `place`: an item each of (name, price, quantity).
#[must_use]
pub fn placed(items: &[(&str, i64, i64)]) -> Value {
    let item = |(name, price, quantity): &(&str, i64, i64)| {
        serde_json::json!({
            "sku": "s", "name": name, "unit_price": price, "quantity": quantity,
        })
    };
    serde_json::json!({ "currency": "EUR", "items": items.iter().map(item).collect::<Vec<_>>() })
}
