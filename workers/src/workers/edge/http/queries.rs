//! The handlers of queries: each authorizes a request, makes a [`Query`] of it, and writes the
//! reply.

use axum::{
    Extension,
    body::Body,
    extract::{Path, RawQuery, State},
    http::{HeaderMap, Response},
};
use brigade_contracts::{
    Address, Aggregate, CommandKey, Refusal,
    day_close::DayCloseRange,
    header::{CONFIRM, IF_NONE_MATCH, MIN_VERSION},
    query::ViewHeaders,
};

use super::{
    admission::RequestPermit,
    extract::{path_token, preferred_wait, select_headers},
    response::query_response,
    state::ApiState,
};
use crate::{runtime::http::Problem, workers::edge::query::Query};

/// Handles `GET /v1/{tenant}/{aggregate}/{id}`: a view, or the state of a user.
pub(super) async fn get_aggregate(
    State(api): ApiState,
    Extension(permit): Extension<RequestPermit>,
    Path((tenant, aggregate, id)): Path<(String, String, String)>,
    headers: HeaderMap,
) -> Result<Response<Body>, Problem> {
    let (tenant, id) = (path_token(&tenant)?, path_token(&id)?);
    let aggregate = Aggregate::parse(&aggregate).ok_or_else(unknown_aggregate)?;
    let wait = preferred_wait(&headers);
    let requester = api.auth.admit(&permit, &tenant, &headers).await?;
    let address = Address { tenant: tenant.clone(), aggregate, id };
    api.auth.authorize_view(&requester, &address).await?;
    if aggregate == Aggregate::User {
        let reply = api.answer(tenant.as_str(), Query::UserState(address)).await?;
        return Ok(query_response(reply, None));
    }
    let selected = select_headers(&headers, &[IF_NONE_MATCH, MIN_VERSION, CONFIRM])?;
    let view = ViewHeaders::parse(selected.into_iter())?;
    let view = ViewHeaders { wait: wait.unwrap_or_default(), ..view };
    let reply = api.answer(tenant.as_str(), Query::View(address, view)).await?;
    Ok(query_response(reply, wait))
}

/// Handles `GET /v1/{tenant}/user/{id}/sessions`.
pub(super) async fn get_sessions(
    State(api): ApiState,
    Extension(permit): Extension<RequestPermit>,
    Path((tenant, id)): Path<(String, String)>,
    headers: HeaderMap,
) -> Result<Response<Body>, Problem> {
    let (tenant, id) = (path_token(&tenant)?, path_token(&id)?);
    let requester = api.auth.admit(&permit, &tenant, &headers).await?;
    let user = Address { tenant: tenant.clone(), aggregate: Aggregate::User, id };
    api.auth.authorize_view(&requester, &user).await?;
    let reply = api.answer(tenant.as_str(), Query::UserSessions(user)).await?;
    Ok(query_response(reply, None))
}

/// Handles `GET /v1/{tenant}/day-close`, with `from` and `to` in the URL.
pub(super) async fn get_day_close(
    State(api): ApiState,
    Extension(permit): Extension<RequestPermit>,
    Path(tenant): Path<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response<Body>, Problem> {
    let tenant = path_token(&tenant)?;
    let requester = api.auth.admit(&permit, &tenant, &headers).await?;
    api.auth.authorize_money(&requester)?;
    let query = query.unwrap_or_default();
    let parameters: Vec<_> = form_urlencoded::parse(query.as_bytes()).collect();
    let named = parameters.iter().map(|(name, value)| (&**name, &**value));
    let range = DayCloseRange::parse(named)?;
    let reply = api.answer(tenant.as_str(), Query::DayClose(tenant.clone(), range)).await?;
    Ok(query_response(reply, None))
}

/// Handles `GET /v1/{tenant}/outcomes/{command_id}`.
pub(super) async fn get_outcome(
    State(api): ApiState,
    Extension(permit): Extension<RequestPermit>,
    Path((tenant, command_id)): Path<(String, String)>,
    headers: HeaderMap,
) -> Result<Response<Body>, Problem> {
    let (tenant, command_id) = (path_token(&tenant)?, path_token(&command_id)?);
    let requester = api.auth.admit(&permit, &tenant, &headers).await?;
    let wait = preferred_wait(&headers);
    let query = Query::Outcome {
        tenant: tenant.clone(),
        command: CommandKey { space: requester.id_space(), id: command_id },
        wait: wait.unwrap_or_default(),
    };
    Ok(query_response(api.answer(tenant.as_str(), query).await?, wait))
}

/// Returns `404`: the path names no kind of aggregate.
pub(super) fn unknown_aggregate() -> Refusal {
    Refusal::new(404, "not_found", "there is no such aggregate")
}
