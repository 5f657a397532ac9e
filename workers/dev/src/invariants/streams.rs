//! Streams as an operator reads them, and what has to be in them.

use std::{collections::HashMap, time::Duration};

use anyhow::{Context as _, Result, ensure};
use async_nats::{
    Message,
    jetstream::{Context, consumer::pull::OrderedConfig},
};
use brigade_contracts::{Address, Token, WorkerName, subject};
use futures::StreamExt;
use serde_json::{Value, json};
use sqlx::PgConnection;
use tokio::time::timeout;

/// Messages that are there come within milliseconds.
const SILENCE: Duration = Duration::from_secs(10);

/// Returns everything in a stream, in order.
///
/// # Errors
/// If the stream cannot be read.
pub async fn messages(js: &Context, stream: &str) -> Result<Vec<Message>> {
    let mut stream = js.get_stream(stream).await?;
    let count = usize::try_from(stream.info().await?.state.messages)?;
    if count == 0 {
        return Ok(Vec::new());
    }
    let consumer = stream.create_consumer(OrderedConfig::default()).await?;
    let mut messages = consumer.messages().await?.take(count);
    let mut read = Vec::with_capacity(count);
    // What leaves the stream meanwhile never comes.
    while let Some(message) = timeout(SILENCE, messages.next()).await.context("it went silent")? {
        let message = message?;
        let left = message.info().map_or(0, |info| info.pending);
        read.push(message.message);
        if left == 0 {
            break;
        }
    }
    Ok(read)
}

/// Address, name and version of an event.
pub type EventKey = (Address, Token, u64);

/// Returns address, name and version of everything in `EVENTS`, in order.
///
/// # Errors
/// If the stream cannot be read, or something in it is no event.
pub async fn events(js: &Context) -> Result<Vec<EventKey>> {
    let read = |message: Message| {
        let headers = message.headers.as_ref().context("headers")?;
        let header = |name: &str| headers.get(name).map(|value| value.as_str());
        let version = header("Aggregate-Version").context("a version")?.parse()?;
        let (address, name) = subject::parse_event(&message.subject, header("ce-subject"))
            .with_context(|| format!("no event: {}", message.subject))?;
        Ok((address, name, version))
    };
    messages(js, "EVENTS").await?.into_iter().map(read).collect()
}

/// I-3: returns the committed events that are not in `EVENTS`; where the stream was never lost,
/// those whose first occurrence is out of order as well.
///
/// # Errors
/// If Postgres or the stream cannot be read.
pub async fn lost_events(
    sql: &mut PgConnection,
    js: &Context,
    in_order: bool,
) -> Result<Vec<String>> {
    let stored: Vec<String> = sqlx::query_scalar(
        "select format('%s.%s.%s@%s', tenant, aggregate, id, version) from brigade.events",
    )
    .fetch_all(sql)
    .await?;
    Ok(compare_events(&stored, &events(js).await?, in_order))
}

fn compare_events(stored: &[String], published: &[EventKey], in_order: bool) -> Vec<String> {
    let mut found: HashMap<String, u64> = HashMap::with_capacity(published.len());
    let mut last: HashMap<&Address, u64> = HashMap::new();
    let mut broken = Vec::new();
    for (address, _, version) in published {
        *found.entry(format!("{address}@{version}")).or_default() += 1;
        let last = last.entry(address).or_default();
        if in_order && *version > *last + 1 {
            broken.push(format!("I-3: {address}@{version} is in EVENTS right after @{last}"));
        }
        *last = (*last).max(*version);
    }
    let lost = stored.iter().filter(|event| !found.contains_key(*event));
    broken.extend(lost.map(|event| format!("I-3: {event} is not in EVENTS")));
    broken
}

/// Returns what is still to be done by those who consume streams: a line for each consumer of a
/// worker that has not acknowledged everything.
///
/// # Errors
/// If JetStream does not answer, as right after a stream was lost.
pub async fn unconsumed(js: &Context) -> Result<Vec<String>> {
    let mut left = Vec::new();
    let is_of_worker = |name: &str| WorkerName::ALL.iter().any(|worker| worker.as_str() == name);
    for stream in names(js).await? {
        let request = format!("CONSUMER.LIST.{stream}");
        let listed: Value = js.request(request, &json!({})).await?;
        ensure!(listed["error"].is_null(), "{stream}: {listed}");
        for consumer in listed["consumers"].as_array().into_iter().flatten() {
            let name = consumer["name"].as_str().unwrap_or_default();
            let open = (&consumer["num_pending"], &consumer["num_ack_pending"]);
            if is_of_worker(name) && open != (&json!(0), &json!(0)) {
                left.push(format!("{stream}/{name}: {} pending, {} in hand", open.0, open.1));
            }
        }
    }
    Ok(left)
}

async fn names(js: &Context) -> Result<Vec<String>> {
    let listed: Value = js.request("STREAM.NAMES".to_owned(), &json!({})).await?;
    ensure!(listed["error"].is_null(), "STREAM.NAMES: {listed}");
    let names = listed["streams"].as_array().into_iter().flatten();
    Ok(names.filter_map(|name| Some(name.as_str()?.to_owned())).collect())
}

/// A dead letter, as far as it tells what it was.
#[derive(Clone, Debug)]
pub struct DeadLetter {
    pub tenant: String,
    pub command_id: Option<String>,
    pub reason: String,
    /// The stream that it came from, and its place there.
    pub origin: Option<(String, u64)>,
}

/// Returns the dead letters in the stream and in SQL.
///
/// # Errors
/// If either cannot be read.
pub async fn dead_letters(sql: &mut PgConnection, js: &Context) -> Result<Vec<DeadLetter>> {
    let mut letters = Vec::new();
    for message in messages(js, "DLQ").await? {
        let headers = message.headers.unwrap_or_default();
        let header = |name: &str| headers.get(name).map(|value| value.as_str().to_owned());
        letters.push(DeadLetter {
            tenant: tenant_of(&header("Origin-Subject").unwrap_or_default()),
            command_id: header("Command-Id"),
            reason: header("Dead-Reason").unwrap_or_default(),
            origin: header("Origin-Stream")
                .zip(header("Origin-Seq").and_then(|sequence| sequence.parse().ok())),
        });
    }
    let rows: Vec<(String, Value)> =
        sqlx::query_as("select subject, headers from brigade.dead_letters").fetch_all(sql).await?;
    letters.extend(rows.into_iter().map(|(subject, headers)| {
        let header = |name: &str| {
            let found = headers.as_array()?.iter().find(|header| header[0] == name)?;
            Some(found[1].as_str()?.to_owned())
        };
        DeadLetter {
            tenant: tenant_of(&header("Origin-Subject").unwrap_or(subject)),
            command_id: header("Command-Id"),
            reason: header("Dead-Reason").unwrap_or_default(),
            origin: header("Origin-Stream")
                .zip(header("Origin-Seq").and_then(|sequence| sequence.parse().ok())),
        }
    }));
    Ok(letters)
}

fn tenant_of(subject: &str) -> String {
    subject.split('.').nth(1).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use brigade_contracts::Aggregate;

    use super::*;

    #[test]
    fn lost_events_and_those_out_of_order_are_found() {
        let event = |version| {
            let address = Address::new("t1", Aggregate::Cart, "c1").expect("tokens");
            (address, Token::new("opened").expect("a token"), version)
        };
        let stored = ["t1.cart.c1@1", "t1.cart.c1@2"].map(str::to_owned);
        let broken = |published: &[u64], in_order| {
            let published: Vec<_> = published.iter().map(|version| event(*version)).collect();
            compare_events(&stored, &published, in_order)
        };
        assert_eq!(broken(&[1, 2], true), Vec::<String>::new());
        assert_eq!(broken(&[1, 1, 2, 1, 2], true), Vec::<String>::new(), "at least once");
        assert_eq!(broken(&[1], true), ["I-3: t1.cart.c1@2 is not in EVENTS"]);
        assert_eq!(broken(&[2, 1], true), ["I-3: t1.cart.c1@2 is in EVENTS right after @0"]);
        assert_eq!(broken(&[2, 1], false), Vec::<String>::new(), "published again after a loss");
    }
}
