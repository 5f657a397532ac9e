//! S1: a fresh token fails, because the cache is written by a consumer.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use async_nats::Client as Nats;
use brigade_contracts::{
    Address, Aggregate, Body, Outcome, Secret,
    client::{Client, Send},
    header, permissions, subject,
    user::Validate,
};
use futures::StreamExt;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::{
    DemoFleet, Promises,
    narration::{mark, millis, say},
};

const FRESH: &str = "A refreshed token is valid on the very next request";
const OLD: &str = "The token before it is not valid any more";
const KEPT: &str = "A login keeps the subscription and the roles that stand there";

/// Refreshes, one after the other.
const REFRESHES: usize = 25;
const PASSWORD: &str = "correct horse battery staple";
const EMAIL: &str = "ada@example.org";

const STORY: &str = r"
S1  A fresh token fails
    Ada's phone refreshes its token and uses the new one at once. Where a consumer of the event writes
    the cache, that request comes before the consumer. Here command-handler writes the field that it
    owns before it answers, and edge confirms it with SQL.";

pub async fn play(fleet: &mut DemoFleet, promises: &mut Promises) -> Result<()> {
    say(STORY);
    let tenant = fleet.stack.tenants.first().context("a tenant")?.clone();
    let consumer = fleet.stack.connect(&permissions::operator().name).await?;
    let producer = fleet.stack.connect(&permissions::producer(&tenant).name).await?;
    let client = Client::new(producer.clone(), Duration::from_secs(10));
    let ada = Address::new(tenant.as_str(), Aggregate::User, "ada")?;
    let send = async |verb: &str, payload: Value| {
        let body = Body::decode(Aggregate::User, verb, payload.to_string().as_bytes())?;
        let outcome = client.send(&Send::new(ada.clone(), body)).await?;
        anyhow::ensure!(outcome.status < 300, "{verb}: {} {}", outcome.status, outcome.code);
        anyhow::Ok(outcome)
    };
    let register = json!({"email": EMAIL, "profile_id": "ada", "password": PASSWORD});
    send("register", register).await?;
    send("register_subscription", json!({"subscription_id": "s1", "plan": "gold"})).await?;
    let login = send("login", json!({"email": EMAIL, "password": PASSWORD})).await?;
    let (mut access, mut refresh) = tokens(&login)?;
    let state = producer.request(subject::query_user_state(&ada), "".into()).await?;
    let state: Value = serde_json::from_slice(&state.payload)?;
    let kept = state["subscription"]["subscription_id"] == "s1"
        && state["roles"]["roles"] == json!(["customer"]);
    promises.test(KEPT, kept);

    // She is the only user.
    let refreshed = subject::events(Aggregate::User, "refreshed");
    let mut events = consumer.subscribe(refreshed).await?;
    consumer.flush().await?;
    let (mut too_late, mut right) = (0, 0);
    let mut slowest = Duration::ZERO;
    for _ in 0..REFRESHES {
        let (used, heard) = tokio::join!(
            async {
                let outcome = send("refresh", json!({"refresh_token": refresh.expose()})).await?;
                let answered = Instant::now();
                let tokens = tokens(&outcome)?;
                anyhow::Ok((answered, validate(&producer, &ada, &tokens.0).await? == 200, tokens))
            },
            // When a consumer could begin to write it into a cache.
            async {
                timeout(Duration::from_secs(10), events.next()).await.ok()??;
                Some(Instant::now())
            },
        );
        let (answered, fresh, (new, next)) = used?;
        let heard = heard.context("the event")?;
        too_late += usize::from(heard > answered);
        slowest = slowest.max(heard.saturating_duration_since(answered));
        let old = validate(&producer, &ada, &access).await? == 401;
        promises.test(FRESH, fresh);
        promises.test(OLD, old);
        right += usize::from(fresh && old);
        (access, refresh) = (new, next);
    }
    report(too_late, slowest, right);
    Ok(())
}

/// Prints how many requests came before a consumer had heard of the refresh (`too_late`), by how
/// much at most, and how many were answered right.
fn report(too_late: usize, slowest: Duration, right: usize) {
    say(format!("\n       {REFRESHES} refreshes, each followed by a request with the new token"));
    say(format!(
        "       cached by a consumer   {} {too_late} requests before the consumer had heard, by up to {}",
        mark(too_late == 0),
        millis(slowest)
    ));
    say(format!(
        "       brigade                {} {right} answered right",
        mark(right == REFRESHES)
    ));
}

/// Returns the access and the refresh token of an answer.
fn tokens(outcome: &Outcome) -> Result<(Secret, Secret)> {
    let data: Value = serde_json::from_str(outcome.data.get())?;
    let token = |name: &str| {
        let token = data[name].as_str().context("no token")?;
        anyhow::Ok(Secret::new(token.to_owned())?)
    };
    Ok((token("access_token")?, token("refresh_token")?))
}

/// The status of the answer.
async fn validate(producer: &Nats, user: &Address, token: &Secret) -> Result<u16> {
    let payload = Validate { access_token: token.clone() }.encode();
    let answer = producer.request(subject::query_user_validate(user), payload.into()).await?;
    let status = answer.headers.as_ref().and_then(|headers| headers.get(header::STATUS));
    Ok(status.context("no status")?.as_str().parse()?)
}
