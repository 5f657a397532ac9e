//! Requests to the programs of a tenant, after the commit: what leaves the house is theirs to send.
//!
//! A request is sent up to three times, until it is answered. It is not kept: if nobody answers, or
//! this process dies, the user asks again. Nobody waits for it, so that the time of an outcome tells
//! nothing.

use std::time::Duration;

use async_nats::Request;
use brigade_contracts::subject;
use brigade_domain::Hook;
use serde_json::json;
use tokio::time::sleep;

use crate::infra::Context;

const TRIES: u32 = 3;
/// The time in which a program has to answer.
const TIMEOUT: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(500);

/// Has a program of the tenant send a token for a new password. A drain waits for one try at most.
pub async fn send(cx: Context, hook: Hook) {
    let Hook { user, email, token, expires_at } = hook;
    let subject = subject::hook(&user.tenant, "password_reset");
    let payload = json!({
        "user": user.id, "email": email, "reset_token": token.expose(), "expires_at": expires_at,
    });
    for tried in 1..=TRIES {
        let request = Request::new().payload(payload.to_string().into()).timeout(Some(TIMEOUT));
        match cx.nats.client.send_request(subject.clone(), request).await {
            Ok(_) => return,
            Err(error) => tracing::warn!(%user, tried, %error, "hook password_reset: no answer"),
        }
        tokio::select! {
            () = sleep(PAUSE) => {}
            () = cx.drain.cancelled() => return,
        }
    }
}
