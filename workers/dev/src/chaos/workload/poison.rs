//! Messages that can never succeed, on every door.

use anyhow::Result;
use async_nats::{HeaderMap, Request, jetstream};
use std::time::Duration;

/// Bodies and headers that no command has.
const BODIES: [&[u8]; 7] = [
    b"",
    b"not json",
    b"[]",
    b"{\"kind\":1}",
    b"{\"kind\":\"menu\",\"kind\":\"menu\"}",
    b"\xff\xfe",
    b"{\"unit_price\":-1e400}",
];

/// Sends all of it, and waits for the answers that come.
///
/// # Errors
/// If the connection is closed for good.
pub async fn poison(client: &async_nats::Client, tenant: &str, run: u64) -> Result<usize> {
    let js = jetstream::new(client.clone());
    let mut sent = 0;
    for (n, body) in BODIES.into_iter().enumerate() {
        for (what, with_id) in [("cart.bad.open", true), ("cart.bad.open", false)] {
            let mut headers = HeaderMap::new();
            if with_id {
                headers.insert("Command-Id", format!("poison-{run}-{n}"));
            }
            headers.append("Deadline", "never");
            let request = Request::new()
                .headers(headers.clone())
                .payload(body.into())
                .timeout(Some(Duration::from_secs(1)));
            // Refused, or dead-lettered: what is wanted is that nobody else notices.
            let _refused = client.send_request(format!("req.{tenant}.{what}"), request).await;
            let subject = format!("cmd.{tenant}.{what}");
            if let Ok(ack) = js.publish_with_headers(subject, headers, body.into()).await {
                let _stored = tokio::time::timeout(Duration::from_secs(1), ack.into_future()).await;
            }
            sent += 2;
        }
    }
    Ok(sent)
}
