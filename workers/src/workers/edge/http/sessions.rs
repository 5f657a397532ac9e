//! Sessions over HTTP: `/v1/{tenant}/sessions`, `/v1/{tenant}/me` and `/v1/{tenant}/introspect`.
//!
//! A login here needs the email alone. It is the command `login` of [`BY_EMAIL`]: who has the email
//! is found where the password is looked up anyway, and nobody is told whether there is one.
//!
//! A page may have the tokens kept in cookies that no script reads ([`super::cookies`]), so that an
//! `EventSource` can use them.

use axum::{
    Extension,
    body::Body,
    extract::{Path, RawQuery, Request, State},
    http::{
        HeaderMap, HeaderValue, Response, StatusCode,
        header::{CACHE_CONTROL, CONTENT_TYPE, SET_COOKIE},
        request::Parts,
    },
    response::IntoResponse,
};
use brigade_contracts::{
    Address, Aggregate, CommandKey, Door, IdSpace, Refusal, Secret, Token,
    header::{COMMAND_ID, once},
    subject,
    user::{BY_EMAIL, Validate, user_of},
};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{
    admission::RequestPermit,
    auth::Requester,
    commands::{
        IDEMPOTENCY_KEY, command_headers, decide, read_command_id, read_payload, require_json,
    },
    cookies,
    extract::path_token,
    parameters::bad_parameter,
    rates::RatePolicy,
    response::{NOT_STORED, query_response},
    state::{ApiState, HttpApi},
};
use crate::{
    runtime::http::{ClientAddress, Problem},
    workers::edge::query::{Query, users::invalid_token},
};

/// Asks for cookies in the place of tokens: `true` or `false`.
const COOKIES: &str = "cookies";
const FORM: &str = "application/x-www-form-urlencoded";

/// The tokens of a session, as the outcomes of `login` and `refresh` hold them.
#[derive(Deserialize)]
struct SessionTokens {
    access_token: Secret,
    refresh_token: Secret,
}

/// Handles `POST /v1/{tenant}/sessions`: a login by email and password.
pub(super) async fn post_session(
    State(api): ApiState,
    Extension(permit): Extension<RequestPermit>,
    Extension(client): Extension<ClientAddress>,
    Path(tenant): Path<String>,
    RawQuery(query): RawQuery,
    request: Request,
) -> Result<Response<Body>, Problem> {
    let tenant = path_token(&tenant)?;
    let with_cookies = asks_for_cookies(query.as_deref())?;
    let begun = send_by_email(&api, &permit, client, &tenant, "login", request).await?;
    respond(&permit, &tenant, StatusCode::CREATED, &begun, with_cookies)
}

/// Handles `POST /v1/{tenant}/password-resets`: has a token for a new password sent to whoever has an
/// email. The answer is the same whether anybody has it.
pub(super) async fn post_password_reset(
    State(api): ApiState,
    Extension(permit): Extension<RequestPermit>,
    Extension(client): Extension<ClientAddress>,
    Path(tenant): Path<String>,
    request: Request,
) -> Result<Response<Body>, Problem> {
    let tenant = path_token(&tenant)?;
    let verb = "request_password_reset";
    let accepted = send_by_email(&api, &permit, client, &tenant, verb, request).await?;
    let body = json!({ "code": accepted["code"], "message": accepted["message"] });
    Ok(json_response(StatusCode::ACCEPTED, &body))
}

/// Handles `POST /v1/{tenant}/sessions/refresh`: new tokens for the session of the cookies.
pub(super) async fn post_refresh(
    State(api): ApiState,
    Extension(permit): Extension<RequestPermit>,
    Extension(client): Extension<ClientAddress>,
    Path(tenant): Path<String>,
    request: Request,
) -> Result<Response<Body>, Problem> {
    let tenant = path_token(&tenant)?;
    let (head, _) = request.into_parts();
    api.auth.admit_tenant(&tenant).await?;
    cookies::require_csrf_header(&tenant, &head.headers)?;
    let token = cookies::refresh_token(&tenant, &head.headers).ok_or_else(invalid_token)?;
    permit.take_of_refresh(token.expose().as_bytes())?;
    let id = user_of(&token).ok_or_else(invalid_token)?;
    let payload = json!({ "refresh_token": token.expose() }).to_string().into();
    let user = Address { tenant, aggregate: Aggregate::User, id };
    let refreshed = send(&api, &head, client, &user, "refresh", payload).await?;
    respond(&permit, &user.tenant, StatusCode::OK, &refreshed, true)
}

/// Handles `DELETE /v1/{tenant}/sessions/current`: ends the session, and takes the cookies away. A
/// page whose session is over already is without cookies after that too: the refresh token outlives
/// the access token, and the next person at the device must not find it.
pub(super) async fn delete_session(
    State(api): ApiState,
    Extension(permit): Extension<RequestPermit>,
    Extension(client): Extension<ClientAddress>,
    Path(tenant): Path<String>,
    request: Request,
) -> Result<Response<Body>, Problem> {
    let tenant = path_token(&tenant)?;
    let (head, _) = request.into_parts();
    let requester = match api.auth.admit_change(&permit, &tenant, &head.headers).await {
        Ok(requester) => requester,
        Err(problem) if problem.status() == 401 => {
            let mut response = problem.into_response();
            cookies::clear(&tenant, response.headers_mut());
            return Ok(response);
        }
        Err(problem) => return Err(problem),
    };
    let id = requester.user().ok_or_else(no_user)?.clone();
    let key = CommandKey { space: requester.id_space(), id: command_id(&head)? };
    let user = Address { tenant, aggregate: Aggregate::User, id };
    let headers = command_headers(&head.headers, &key, &requester, client)?;
    let subject = subject::command(Door::Request, &user, &Token::new("logout")?);
    decide(&api.nats, &subject, &headers, Bytes::from_static(b"{}")).await?.success()?;
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    cookies::clear(&user.tenant, response.headers_mut());
    Ok(response)
}

/// Handles `GET /v1/{tenant}/me`: the state of the user whose token it is.
pub(super) async fn get_me(
    State(api): ApiState,
    Extension(permit): Extension<RequestPermit>,
    Path(tenant): Path<String>,
    headers: HeaderMap,
) -> Result<Response<Body>, Problem> {
    let tenant = path_token(&tenant)?;
    let requester = api.auth.admit(&permit, &tenant, &headers).await?;
    let id = requester.user().ok_or_else(no_user)?.clone();
    let user = Address { tenant: tenant.clone(), aggregate: Aggregate::User, id };
    let reply = api.answer(tenant.as_str(), Query::UserState(user)).await?;
    Ok(query_response(reply, None))
}

/// Handles `POST /v1/{tenant}/introspect` (RFC 7662): whose a token is, for staff.
pub(super) async fn post_introspect(
    State(api): ApiState,
    Extension(permit): Extension<RequestPermit>,
    Path(tenant): Path<String>,
    request: Request,
) -> Result<Response<Body>, Problem> {
    let tenant = path_token(&tenant)?;
    let (head, body) = request.into_parts();
    let requester = api.auth.admit_change(&permit, &tenant, &head.headers).await?;
    api.auth.authorize_list(&requester)?;
    let media_type = head.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    if media_type.is_none_or(|value| value.split(';').next() != Some(FORM)) {
        return Err(Refusal::new(415, "not_form", format!("the body has to be {FORM}")).into());
    }
    let body = read_payload(&head.headers, body, &api.drain).await?;
    let token = form_urlencoded::parse(&body).find(|(name, _)| name == "token");
    let token = token.ok_or_else(|| Refusal::new(400, "missing_field", "the field token"))?;
    let session = match Secret::new(token.1.into_owned()).ok().and_then(|t| Some((user_of(&t)?, t)))
    {
        None => None,
        Some((id, access_token)) => {
            let user = Address { tenant: tenant.clone(), aggregate: Aggregate::User, id };
            let found = api.edge.queries.users.validate(user, &Validate { access_token }).await;
            match found {
                Ok(session) => Some(session),
                Err(reply) if reply.status == 401 => None,
                Err(reply) => return Err(reply.into()),
            }
        }
    };
    let body = session.map_or_else(|| json!({ "active": false }), |session| {
        let scope: Vec<_> = session.roles.iter().map(Token::as_str).collect();
        json!({
            "active": true, "sub": session.user, "scope": scope.join(" "), "token_type": "Bearer",
            "exp": session.expires_at.inner().unix_timestamp(), "sid": session.session,
            "profile_id": session.profile_id,
        })
    });
    Ok(json_response(StatusCode::OK, &body))
}

/// Returns whether the query of a path asks for cookies.
///
/// # Errors
/// `400 bad_header` for one that says it twice, or neither yes nor no.
fn asks_for_cookies(query: Option<&str>) -> Result<bool, Refusal> {
    let named: Vec<_> = form_urlencoded::parse(query.unwrap_or_default().as_bytes()).collect();
    let given = once(named.iter().map(|(name, value)| (&**name, &**value)), COOKIES)?;
    given.map_or(Ok(false), |given| given.parse().map_err(|_| bad_parameter(COOKIES)))
}

/// Sends a command of somebody who has no token yet, and whose email says who it is.
async fn send_by_email(
    api: &HttpApi,
    permit: &RequestPermit,
    client: ClientAddress,
    tenant: &Token,
    verb: &str,
    request: Request,
) -> Result<Value, Problem> {
    let (head, body) = request.into_parts();
    require_json(&head.headers)?;
    permit.take_of_address(RatePolicy::Login)?;
    api.auth.admit_tenant(tenant).await?;
    let payload = read_payload(&head.headers, body, &api.drain).await?;
    let id = Token::new(BY_EMAIL)?;
    let user = Address { tenant: tenant.clone(), aggregate: Aggregate::User, id };
    send(api, &head, client, &user, verb, payload).await
}

/// Sends a command of somebody who has no token yet.
async fn send(
    api: &HttpApi,
    head: &Parts,
    client: ClientAddress,
    user: &Address,
    verb: &str,
    payload: Bytes,
) -> Result<Value, Problem> {
    let key = CommandKey { space: IdSpace::Stranger(user.id.clone()), id: command_id(head)? };
    let headers = command_headers(&head.headers, &key, &Requester::Anonymous, client)?;
    let subject = subject::command(Door::Request, user, &Token::new(verb)?);
    let body = decide(&api.nats, &subject, &headers, payload).await?.success()?;
    Ok(serde_json::from_slice(&body).unwrap_or_default())
}

/// Returns the Command-Id of the sender; where it gives none a new one.
///
/// # Errors
/// Those of [`read_command_id`].
fn command_id(head: &Parts) -> Result<Token, Problem> {
    if [IDEMPOTENCY_KEY, COMMAND_ID].iter().any(|name| head.headers.contains_key(*name)) {
        return Ok(read_command_id(&head.headers)?);
    }
    Ok(Token::new(&Uuid::now_v7().to_string())?)
}

/// Returns a session with its tokens, or with cookies that hold them.
fn respond(
    permit: &RequestPermit,
    tenant: &Token,
    status: StatusCode,
    outcome: &Value,
    with_cookies: bool,
) -> Result<Response<Body>, Problem> {
    let data = &outcome["data"];
    let mut body = json!({
        "user": outcome["id"], "session": data["session"], "expires_at": data["expires_at"],
        "refresh_expires_at": data["refresh_expires_at"],
    });
    let issued = SessionTokens::deserialize(data)
        .map_err(|_| Refusal::new(500, "internal", "an outcome without tokens"))?;
    permit.issued(tenant, &issued.access_token);
    if !with_cookies {
        body["access_token"] = json!(issued.access_token.expose());
        body["refresh_token"] = json!(issued.refresh_token.expose());
        return Ok(json_response(status, &body));
    }
    let mut response = json_response(status, &body);
    for cookie in cookies::of(tenant, &issued.access_token, &issued.refresh_token) {
        response.headers_mut().append(SET_COOKIE, cookie);
    }
    Ok(response)
}

fn json_response(status: StatusCode, body: &Value) -> Response<Body> {
    let mut response = Response::new(Body::from(body.to_string()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, NOT_STORED);
    response
}

pub(super) fn no_user() -> Refusal {
    Refusal::new(403, "not_allowed", "this is for the user of a token")
}
