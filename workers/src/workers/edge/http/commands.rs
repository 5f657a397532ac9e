//! `POST /v1/{tenant}/{aggregate}/{id}/{verb}`: a command, sent through the request door under the
//! same Command-Id until it is decided.

use std::{net::SocketAddr, time::Duration};

use async_nats::{HeaderMap as NatsHeaders, Request as NatsRequest};
use axum::{
    Extension,
    body::{Body, to_bytes},
    extract::{ConnectInfo, Path, Request, State},
    http::{
        HeaderMap, HeaderValue, Response, StatusCode,
        header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, ETAG, VARY},
    },
};
use brigade_contracts::{
    Address, Aggregate, Door, MAX_PAYLOAD, Refusal, Token,
    command::unknown_verb,
    header::{
        ACTOR, COMMAND_ID, DEADLINE, EXPECTED_VERSION, SOURCE, STATUS, TRACEPARENT, bad, command_id,
    },
    subject,
};
use bytes::Bytes;
use serde::Deserialize;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::{
    Shared,
    admission::Admission,
    head::{named, one, token},
    reads::UNKEPT,
    rules::{Least, of_verb},
    who::Who,
};
use crate::{runtime::http::Problem, workers::edge::Edge};

const IDEMPOTENCY_KEY: &str = "Idempotency-Key";
/// How long a command is repeated that nobody decides.
const UNDECIDED_AFTER: Duration = Duration::from_secs(5);
/// How long one request waits for its answer before it is repeated.
const ONE_TRY: Duration = Duration::from_millis(2500);
/// Pause before a repetition, doubled each time.
const PAUSE: Duration = Duration::from_millis(50);
/// How long a body may take to come.
pub(super) const BODY_WITHIN: Duration = Duration::from_secs(10);
/// How long it may still take once edge drains, which nobody should hold up.
pub(super) const BODY_WITHIN_DRAIN: Duration = Duration::from_secs(1);

pub(super) async fn command(
    State(edge): Shared,
    Extension(admission): Extension<Admission>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    Path((tenant, aggregate, id, verb)): Path<(String, String, String, String)>,
    request: Request,
) -> Result<Response<Body>, Problem> {
    let (tenant, id, verb) = (token(&tenant)?, token(&id)?, token(&verb)?);
    let aggregate = Aggregate::parse(token(&aggregate)?.as_str());
    let known =
        aggregate.and_then(|aggregate| Some((aggregate, of_verb(aggregate, verb.as_str())?)));
    let (aggregate, rule) = known.ok_or_else(unknown_verb)?;
    let address = Address { tenant: tenant.clone(), aggregate, id };
    let (head, body) = request.into_parts();
    is_json(&head.headers)?;
    let command_id = idempotency_key(&head.headers)?;
    // A token that has expired must not keep anybody from asking for a new one.
    let who = match rule.least {
        Least::Anybody => Who::Nobody,
        _ => edge.admit(&admission, &tenant, &head.headers).await?,
    };
    let headers = command_headers(&head.headers, &command_id, &who, peer)?;
    let payload = payload(&head.headers, body, &edge.cx.drain).await?;
    edge.cx.fail.message(&payload);
    edge.may_send(&who, rule, &address, &verb, &payload).await?;
    let subject = subject::command(Door::Request, &address, &verb);
    edge.decide(&subject, &headers, payload).await
}

/// # Errors
/// `415 not_json` for a body of another type; one of no type is taken for JSON.
fn is_json(headers: &HeaderMap) -> Result<(), Refusal> {
    let Some(content_type) = one(headers, CONTENT_TYPE.as_str())? else { return Ok(()) };
    let media_type = content_type.split(';').next().unwrap_or_default().trim();
    if media_type.eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    Err(Refusal::new(415, "not_json", "the body has to be application/json"))
}

/// The Command-Id, under either of its names; an `Idempotency-Key` may stand in quotation marks.
///
/// # Errors
/// `400 missing_command_id` without one that can be used; `400 bad_header` for two.
fn idempotency_key(headers: &HeaderMap) -> Result<Token, Refusal> {
    let unquoted = |key: &'_ str| {
        let inner = key.strip_prefix('"').and_then(|key| key.strip_suffix('"'));
        inner.unwrap_or(key).to_owned()
    };
    let key = one(headers, IDEMPOTENCY_KEY)?.map(unquoted);
    let own = one(headers, COMMAND_ID)?.map(str::to_owned);
    if own.is_some() && key.is_some() && own != key {
        return Err(bad(IDEMPOTENCY_KEY));
    }
    let either = own.or(key);
    command_id(either.iter().map(|id| (COMMAND_ID, id.as_str()))).map_err(|refusal| {
        let message = "a command needs one header Idempotency-Key (or Command-Id) of 1 to 64 \
                       characters of A-Z, a-z, 0-9, _ and -";
        Refusal { message: message.into(), ..refusal }
    })
}

/// What goes with the command over NATS: whoever sends it is who the token says, and comes from
/// where the connection does.
fn command_headers(
    headers: &HeaderMap,
    command_id: &Token,
    who: &Who,
    peer: SocketAddr,
) -> Result<NatsHeaders, Refusal> {
    let mut sent = NatsHeaders::new();
    for (name, value) in named(headers, &[DEADLINE, EXPECTED_VERSION, TRACEPARENT])? {
        sent.append(name, value);
    }
    sent.insert(COMMAND_ID, command_id.as_str());
    sent.insert(SOURCE, peer.ip().to_canonical().to_string());
    if let Some(user) = who.user() {
        sent.insert(ACTOR, user.as_str());
    }
    Ok(sent)
}

/// # Errors
/// `413 payload_too_large`; `408 too_slow` for a body that does not come; `400 malformed` for one
/// that breaks off.
pub(super) async fn payload(
    headers: &HeaderMap,
    body: Body,
    drain: &CancellationToken,
) -> Result<Bytes, Refusal> {
    let too_large = || {
        let message = format!("the payload has more than {MAX_PAYLOAD} bytes");
        Refusal::new(413, "payload_too_large", message)
    };
    let told = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    if told.is_some_and(|length: usize| length > MAX_PAYLOAD) {
        return Err(too_large());
    }
    let drained = async {
        drain.cancelled().await;
        sleep(BODY_WITHIN_DRAIN).await;
    };
    let payload = tokio::select! {
        payload = timeout(BODY_WITHIN, to_bytes(body, MAX_PAYLOAD)) => payload.ok(),
        () = drained => None,
    };
    match payload {
        Some(Ok(payload)) => Ok(payload),
        Some(Err(error)) if is_limit(&error) => Err(too_large()),
        Some(Err(_)) => Err(Refusal::new(400, "malformed", "the body breaks off")),
        None => Err(Refusal::new(408, "too_slow", "the body did not come in time")),
    }
}

fn is_limit(error: &axum::Error) -> bool {
    let source = std::error::Error::source(error);
    source.is_some_and(|source| source.is::<http_body_util::LengthLimitError>())
}

impl Edge {
    /// Sends a command until it is decided.
    async fn decide(
        &self,
        subject: &str,
        headers: &NatsHeaders,
        payload: Bytes,
    ) -> Result<Response<Body>, Problem> {
        let until = Instant::now() + UNDECIDED_AFTER;
        let mut pause = PAUSE;
        let mut last = None;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let request = NatsRequest::new()
                .headers(headers.clone())
                .payload(payload.clone())
                .timeout(Some(left.min(ONE_TRY)));
            let answer = self.cx.nats.client.send_request(subject.to_owned(), request).await;
            match answer.ok().and_then(Decided::of) {
                Some(decided) if decided.is_final() => return decided.response(),
                // Whatever was said last says more than that nothing is decided.
                said => last = said.or(last),
            }
            if Instant::now() + pause >= until {
                return last.map_or_else(|| Err(undecided()), Decided::response);
            }
            sleep(pause).await;
            pause *= 2;
        }
    }
}

/// An outcome.
struct Decided {
    status: StatusCode,
    body: Bytes,
}

impl Decided {
    /// `None` for what is none.
    fn of(answer: async_nats::Message) -> Option<Self> {
        let status = answer.headers?.get(STATUS)?.as_str().parse().ok()?;
        Some(Self { status, body: answer.payload })
    }

    fn is_final(&self) -> bool {
        self.status != StatusCode::SERVICE_UNAVAILABLE
    }

    fn response(self) -> Result<Response<Body>, Problem> {
        #[derive(Deserialize)]
        struct Told {
            etag: Option<String>,
        }
        if !self.status.is_success() {
            return Err(Problem::of(&self.body).unwrap_or_else(undecided));
        }
        let told = serde_json::from_slice(&self.body).ok();
        let etag = told.and_then(|told: Told| HeaderValue::try_from(told.etag?).ok());
        let mut response = Response::new(Body::from(self.body));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(CACHE_CONTROL, UNKEPT);
        headers.insert(VARY, HeaderValue::from_static("Authorization"));
        if let Some(etag) = etag {
            headers.insert(ETAG, etag);
        }
        Ok(response)
    }
}

fn undecided() -> Problem {
    let message = "the command is not decided, as far as is known; repeat it under its Command-Id";
    let refusal = Refusal::new(503, "undecided", message);
    Refusal { retry_after_ms: Some(1000), ..refusal }.into()
}
