//! Queries: the answers of the functions that answer those of NATS, with the headers of HTTP.

use std::time::Duration;

use axum::{
    Extension,
    body::Body,
    extract::{Path, State},
    http::{
        HeaderMap, HeaderName, HeaderValue, Response, StatusCode,
        header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, VARY},
    },
};
use brigade_contracts::{
    Address, Aggregate, Refusal,
    header::{CONFIRM, CONFIRMED_BY, IF_NONE_MATCH, MIN_VERSION, RESUME},
    list::ListHeaders,
    query::ViewHeaders,
};

use super::{
    Shared,
    admission::Admission,
    head::{named, token, wait},
};
use crate::{runtime::http::Problem, workers::edge::reply::Reply};

const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");
/// What may be kept, but is asked about each time by its ETag.
const REVALIDATED: HeaderValue = HeaderValue::from_static("no-cache");
/// What must not be kept.
pub(super) const UNKEPT: HeaderValue = HeaderValue::from_static("no-store");

type Pieces<T> = Path<T>;

/// `GET /v1/{tenant}/{aggregate}/{id}`: a view, or the state of a user.
pub(super) async fn aggregate(
    State(edge): Shared,
    Extension(admission): Extension<Admission>,
    Path((tenant, aggregate, id)): Pieces<(String, String, String)>,
    headers: HeaderMap,
) -> Result<Response<Body>, Problem> {
    let (tenant, id) = (token(&tenant)?, token(&id)?);
    let aggregate = Aggregate::parse(&aggregate).ok_or_else(unknown_aggregate)?;
    let wait = wait(&headers);
    let who = edge.admit(&admission, &tenant, &headers).await?;
    let address = Address { tenant, aggregate, id };
    edge.may_read(&who, &address).await?;
    if aggregate == Aggregate::User {
        return Ok(response(edge.user_state(address).await?, None));
    }
    let asked = named(&headers, &[IF_NONE_MATCH, MIN_VERSION, CONFIRM])?;
    let asked = ViewHeaders::parse(asked.into_iter())?;
    let asked = ViewHeaders { wait: wait.unwrap_or_default(), ..asked };
    Ok(response(edge.view(&address, &asked).await?, wait))
}

/// `GET /v1/{tenant}/active-orders`.
pub(super) async fn active_orders(
    State(edge): Shared,
    Extension(admission): Extension<Admission>,
    Path(tenant): Pieces<String>,
    headers: HeaderMap,
) -> Result<Response<Body>, Problem> {
    let tenant = token(&tenant)?;
    let who = edge.admit(&admission, &tenant, &headers).await?;
    edge.may_list(&who)?;
    let asked =
        ListHeaders::parse(named(&headers, &[IF_NONE_MATCH, RESUME, CONFIRM])?.into_iter())?;
    Ok(response(edge.active_orders(tenant, &asked).await?, None))
}

/// `GET /v1/{tenant}/outcomes/{command_id}`.
pub(super) async fn outcome(
    State(edge): Shared,
    Extension(admission): Extension<Admission>,
    Path((tenant, command_id)): Pieces<(String, String)>,
    headers: HeaderMap,
) -> Result<Response<Body>, Problem> {
    let (tenant, command_id) = (token(&tenant)?, token(&command_id)?);
    let who = edge.admit(&admission, &tenant, &headers).await?;
    let wait = wait(&headers);
    let of = who.user();
    let reply = edge.outcome(tenant, command_id, wait.unwrap_or_default(), of).await?;
    Ok(response(reply, wait))
}

pub(super) fn unknown_aggregate() -> Refusal {
    Refusal::new(404, "not_found", "there is no such aggregate")
}

/// An answer with the headers of HTTP, and how long it might have waited.
fn response(reply: Reply, wait: Option<Duration>) -> Response<Body> {
    let mut response = Response::new(Body::from(reply.body));
    *response.status_mut() = StatusCode::from_u16(reply.status).unwrap_or(StatusCode::OK);
    let headers = response.headers_mut();
    if reply.status != 304 {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    }
    headers.insert(CACHE_CONTROL, if reply.etag.is_some() { REVALIDATED } else { UNKEPT });
    headers.insert(VARY, HeaderValue::from_static("Authorization"));
    if let Some(etag) = reply.etag.and_then(|etag| etag.try_into().ok()) {
        headers.insert(ETAG, etag);
    }
    if reply.by_kv {
        headers.insert(CONFIRMED_BY, HeaderValue::from_static("kv"));
    }
    if let Some(applied) = wait.and_then(|wait| format!("wait={}", wait.as_secs()).try_into().ok())
    {
        headers.insert(PREFERENCE_APPLIED, applied);
    }
    response
}

impl From<Reply> for Problem {
    /// Of an answer that is an error.
    fn from(reply: Reply) -> Self {
        Self::of(&reply.body).unwrap_or_else(|| {
            Refusal::new(500, "internal", "an answer that cannot be told").into()
        })
    }
}
