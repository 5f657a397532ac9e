//! The handler of commands, `POST /v1/{tenant}/{aggregate}/{id}/{verb}`: sends a command through
//! the request door under the same Command-Id until it is decided.

mod reply;

use std::time::Duration;

use async_nats::{Client, HeaderMap as NatsHeaders, Request as NatsRequest};
use axum::{
    Extension,
    body::{Body, to_bytes},
    extract::{Path, Request, State},
    http::{
        HeaderMap, Response,
        header::{CONTENT_LENGTH, CONTENT_TYPE},
    },
};
use brigade_contracts::{
    Address, Aggregate, CommandKey, Door, IdSpace, MAX_PAYLOAD, Refusal, Token,
    command::unknown_verb,
    header::{
        ACTOR, COMMAND_ID, DEADLINE, EXPECTED_VERSION, RELATION, SESSION, SOURCE, TRACEPARENT, bad,
        command_id,
    },
    subject,
};
use bytes::Bytes;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

pub(super) use self::reply::OutcomeReply;
use self::reply::undecided;
use super::{
    admission::RequestPermit,
    auth::Requester,
    extract::{path_token, select_headers, single_header},
    policy::{RequiredRole, verb_policy},
    rates::RatePolicy,
    state::ApiState,
};
use crate::runtime::http::{ClientAddress, Problem};

pub(super) const IDEMPOTENCY_KEY: &str = "Idempotency-Key";
/// The time for which a command is repeated that nobody decides.
const UNDECIDED_AFTER: Duration = Duration::from_secs(5);
/// The time for which one request waits for its outcome before it is repeated.
const REQUEST_TIMEOUT: Duration = Duration::from_millis(2500);
/// Pause before the first repetition, doubled each time.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// The time within which a body has to come.
pub(super) const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// The time within which it has to come once edge drains, which nobody should hold up.
pub(super) const BODY_TIMEOUT_IN_DRAIN: Duration = Duration::from_secs(1);

/// Handles `POST /v1/{tenant}/{aggregate}/{id}/{verb}`.
pub(super) async fn post_command(
    State(api): ApiState,
    Extension(permit): Extension<RequestPermit>,
    Extension(client): Extension<ClientAddress>,
    Path((tenant, aggregate, id, verb)): Path<(String, String, String, String)>,
    request: Request,
) -> Result<Response<Body>, Problem> {
    let (tenant, id, verb) = (path_token(&tenant)?, path_token(&id)?, path_token(&verb)?);
    let aggregate = Aggregate::parse(path_token(&aggregate)?.as_str());
    let known =
        aggregate.and_then(|aggregate| Some((aggregate, verb_policy(aggregate, verb.as_str())?)));
    let (aggregate, policy) = known.ok_or_else(unknown_verb)?;
    let address = Address { tenant: tenant.clone(), aggregate, id };
    let (head, body) = request.into_parts();
    require_json(&head.headers)?;
    let command_id = read_command_id(&head.headers)?;
    let is_refresh = aggregate == Aggregate::User && verb.as_str() == "refresh";
    // A token that has expired must not keep anybody from asking for a new one.
    let (requester, space) = match policy.role {
        RequiredRole::Anybody => {
            if !is_refresh {
                permit.take_of_address(RatePolicy::Login)?;
            }
            api.auth.admit_tenant(&tenant).await?;
            (Requester::Anonymous, IdSpace::Stranger(address.id.clone()))
        }
        _ => {
            let requester = api.auth.admit_change(&permit, &tenant, &head.headers).await?;
            let space = requester.id_space();
            (requester, space)
        }
    };
    let key = CommandKey { space, id: command_id };
    let mut headers = command_headers(&head.headers, &key, &requester, client)?;
    let payload = read_payload(&head.headers, body, &api.drain).await?;
    if is_refresh {
        // As it came: who varies what stands around the token is still counted by his address.
        permit.take_of_refresh(&payload)?;
    }
    api.fail.message(&payload);
    let relation = match policy.role {
        RequiredRole::Anybody => api.auth.relation_of_stranger(&head.headers),
        _ => api.auth.authorize_command(&requester, policy, &address, &verb, &payload).await?,
    };
    relation.iter().for_each(|relation| headers.insert(RELATION, relation.as_str()));
    let subject = subject::command(Door::Request, &address, &verb);
    let reply = decide(&api.nats, &subject, &headers, payload).await?;
    if let (RequiredRole::Anybody, Some(issued)) = (policy.role, reply.access_token()) {
        permit.issued(&tenant, &issued);
    }
    reply.into_response()
}

/// Refuses bodies that are no JSON. A body without a type is taken for JSON.
///
/// # Errors
/// `415 not_json`.
pub(super) fn require_json(headers: &HeaderMap) -> Result<(), Refusal> {
    let Some(content_type) = single_header(headers, CONTENT_TYPE.as_str())? else { return Ok(()) };
    let media_type = content_type.split(';').next().unwrap_or_default().trim();
    if media_type.eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    Err(Refusal::new(415, "not_json", "the body has to be application/json"))
}

/// Reads the Command-Id, under either of its names; an `Idempotency-Key` may have quotation marks.
///
/// # Errors
/// `400 missing_command_id` without one that can be used; `400 bad_header` for two.
pub(super) fn read_command_id(headers: &HeaderMap) -> Result<Token, Refusal> {
    let unquoted = |key: &'_ str| {
        let inner = key.strip_prefix('"').and_then(|key| key.strip_suffix('"'));
        inner.unwrap_or(key).to_owned()
    };
    let key = single_header(headers, IDEMPOTENCY_KEY)?.map(unquoted);
    let own = single_header(headers, COMMAND_ID)?.map(str::to_owned);
    if own.is_some() && key.is_some() && own != key {
        return Err(bad(IDEMPOTENCY_KEY));
    }
    let either = own.or(key);
    command_id(either.iter().map(|id| (COMMAND_ID, id.as_str()))).map_err(|refusal| {
        let message = "a command needs one header Idempotency-Key (or Command-Id) of 1 to 64 \
                       characters of A-Z, a-z, 0-9, _ and -";
        Refusal { message: message.into(), ..refusal }.of_param(IDEMPOTENCY_KEY)
    })
}

/// Returns the headers of the command over NATS. Its actor is the user of the token, and its source
/// the address of the client.
pub(super) fn command_headers(
    headers: &HeaderMap,
    key: &CommandKey,
    requester: &Requester,
    client: ClientAddress,
) -> Result<NatsHeaders, Refusal> {
    let mut sent = NatsHeaders::new();
    for (name, value) in select_headers(headers, &[DEADLINE, EXPECTED_VERSION, TRACEPARENT])? {
        sent.append(name, value);
    }
    sent.insert(COMMAND_ID, key.to_string());
    sent.insert(SOURCE, client.0.to_string());
    if let Some(user) = requester.user() {
        sent.insert(ACTOR, user.as_str());
    }
    if let Some(session) = requester.session() {
        sent.insert(SESSION, session.as_str());
    }
    Ok(sent)
}

/// Reads the body of a command.
///
/// # Errors
/// `413 payload_too_large`; `408 too_slow` for a body that does not come; `400 malformed` for one
/// that breaks off.
pub(super) async fn read_payload(
    headers: &HeaderMap,
    body: Body,
    drain: &CancellationToken,
) -> Result<Bytes, Refusal> {
    let too_large = || {
        let message = format!("the payload has more than {MAX_PAYLOAD} bytes");
        Refusal::new(413, "payload_too_large", message)
    };
    let declared =
        headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    if declared.is_some_and(|length: usize| length > MAX_PAYLOAD) {
        return Err(too_large());
    }
    let drained = async {
        drain.cancelled().await;
        sleep(BODY_TIMEOUT_IN_DRAIN).await;
    };
    let payload = tokio::select! {
        payload = timeout(BODY_TIMEOUT, to_bytes(body, MAX_PAYLOAD)) => payload.ok(),
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

/// Sends a command until it is decided.
///
/// # Errors
/// `503 undecided`, if nothing is known of it.
pub(super) async fn decide(
    client: &Client,
    subject: &str,
    headers: &NatsHeaders,
    payload: Bytes,
) -> Result<OutcomeReply, Problem> {
    let until = Instant::now() + UNDECIDED_AFTER;
    let mut pause = FIRST_PAUSE;
    let mut last = None;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let request = NatsRequest::new()
            .headers(headers.clone())
            .payload(payload.clone())
            .timeout(Some(left.min(REQUEST_TIMEOUT)));
        let reply = client.send_request(subject.to_owned(), request).await;
        match reply.ok().and_then(OutcomeReply::read) {
            Some(reply) if reply.is_final() => return Ok(reply),
            // The last reply says more than that nothing is decided.
            reply => last = reply.filter(|reply| !reply.is_of_earlier_version()).or(last),
        }
        if Instant::now() + pause >= until {
            return last.ok_or_else(undecided);
        }
        sleep(pause).await;
        pause *= 2;
    }
}
