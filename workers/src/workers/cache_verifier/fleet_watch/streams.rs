//! What JetStream tells of the fleet: how far each declared consumer is.

use anyhow::{Context as _, Result, bail};
use async_nats::jetstream::{self, response::Response};
use brigade_contracts::topology::Topology;
use futures::future::try_join_all;
use serde::Serialize;
use serde_json::{Value, json};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{LetterCount, LettersInStream};

/// `JSConsumerNotFoundErr` and `JSStreamNotFoundErr` of nats-server.
const ABSENT: [u64; 2] = [10014, 10059];

/// A declared consumer.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ConsumerState {
    pub stream: String,
    pub consumer: String,
    /// There is none: its worker makes it when it runs.
    pub is_absent: bool,
    pub is_paused: bool,
    /// Messages that were not delivered yet.
    pub pending: u64,
    /// Messages that were delivered and are not acknowledged.
    pub ack_pending: u64,
    /// Those of them that were delivered more than once.
    pub redelivered: u64,
    /// Open pulls: 0 where nobody asks for messages, or whoever does has its hands full.
    pub pulls: u64,
    /// The age of the oldest message that is not acknowledged; 0: there is none.
    pub oldest_seconds: f64,
}

/// What JetStream tells of the fleet.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Streams {
    pub consumers: Vec<ConsumerState>,
    /// Dead letters of the stream.
    pub letters: Vec<LetterCount>,
}

impl Streams {
    /// # Errors
    /// If the server does not answer, or refuses.
    pub async fn load(
        js: &jetstream::Context,
        topology: &Topology,
        letters: &mut LettersInStream,
    ) -> Result<Self> {
        let declared = topology.consumers.iter();
        let declared =
            declared.flat_map(|(stream, all)| all.keys().map(move |name| (stream, name)));
        let consumers = try_join_all(declared.map(|(stream, name)| load(js, stream, name)));
        Ok(Self { consumers: consumers.await?, letters: letters.count(js).await?.to_vec() })
    }
}

async fn load(js: &jetstream::Context, stream: &str, consumer: &str) -> Result<ConsumerState> {
    let named = || (stream.to_owned(), consumer.to_owned());
    let Some(info) = ask(js, format!("CONSUMER.INFO.{stream}.{consumer}"), &json!({})).await?
    else {
        let (stream, consumer) = named();
        return Ok(ConsumerState { stream, consumer, is_absent: true, ..ConsumerState::default() });
    };
    let number = |field: &str| info[field].as_u64().unwrap_or_default();
    let (pending, ack_pending) = (number("num_pending"), number("num_ack_pending"));
    let oldest_seconds =
        if pending + ack_pending == 0 { 0.0 } else { oldest(js, stream, &info).await? };
    let (stream, consumer) = named();
    Ok(ConsumerState {
        stream,
        consumer,
        is_absent: false,
        is_paused: info["paused"] == true,
        pending,
        ack_pending,
        redelivered: number("num_redelivered"),
        pulls: number("num_waiting"),
        oldest_seconds,
    })
}

/// Returns the age of the first message behind what is acknowledged, by the server's clock.
async fn oldest(js: &jetstream::Context, stream: &str, info: &Value) -> Result<f64> {
    let config = &info["config"];
    let filters: Vec<&str> = match config["filter_subjects"].as_array() {
        Some(all) => all.iter().filter_map(Value::as_str).collect(),
        None => config["filter_subject"].as_str().into_iter().collect(),
    };
    let filters = if filters.is_empty() { vec![">"] } else { filters };
    let after = info["ack_floor"]["stream_seq"].as_u64().unwrap_or_default() + 1;
    let asked = filters.into_iter().map(|filter| async move {
        let next = json!({ "seq": after, "next_by_subj": filter });
        ask(js, format!("STREAM.MSG.GET.{stream}"), &next).await
    });
    let found = try_join_all(asked).await?;
    let found = found.into_iter().flatten().filter_map(|found| {
        let message = &found["message"];
        let at = OffsetDateTime::parse(message["time"].as_str()?, &Rfc3339).ok()?;
        Some((message["seq"].as_u64()?, at))
    });
    let now = info["ts"].as_str().and_then(|ts| OffsetDateTime::parse(ts, &Rfc3339).ok());
    let (Some((_, at)), Some(now)) = (found.min(), now) else { return Ok(0.0) };
    Ok((now - at).as_seconds_f64().max(0.0))
}

/// Asks JetStream; `None` if there is no such stream, consumer or message.
async fn ask(js: &jetstream::Context, subject: String, request: &Value) -> Result<Option<Value>> {
    /// `JSNoMessageFoundErr` of nats-server.
    const NO_MESSAGE: u64 = 10037;
    let asked = js.request(subject.clone(), request);
    match asked.await.with_context(|| format!("no answer to {subject}"))? {
        Response::Ok(value) => Ok(Some(value)),
        Response::Err { error } => match error.error_code().0 {
            code if code == NO_MESSAGE || ABSENT.contains(&code) => Ok(None),
            _ => bail!("{subject}: {error}"),
        },
    }
}
