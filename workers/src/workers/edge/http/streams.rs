//! The handlers of streams: `GET /v1/{tenant}/active-orders/stream` and
//! `GET /v1/{tenant}/{aggregate}/{id}/stream`, as server-sent events.

use std::{convert::Infallible, sync::Arc};

use axum::{
    Extension,
    body::Body,
    extract::{Path, State},
    http::{HeaderMap, HeaderName, HeaderValue, Response, header::CONTENT_TYPE},
};
use brigade_contracts::{Address, Aggregate, Refusal, Token};
use futures::StreamExt;

use super::{
    admission::RequestPermit,
    auth::Requester,
    extract::path_token,
    queries::unknown_aggregate,
    state::{ApiState, HttpApi},
};
use crate::{
    runtime::http::Problem,
    workers::edge::live::{ActiveOrdersTopic, Topic, ViewTopic},
};

const LAST_EVENT_ID: &str = "last-event-id";
/// Proxies that know it (nginx) hand each event on as it comes.
const X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// Handles `GET /v1/{tenant}/active-orders/stream`.
pub(super) async fn stream_active_orders(
    State(api): ApiState,
    Extension(permit): Extension<RequestPermit>,
    Path(tenant): Path<String>,
    headers: HeaderMap,
) -> Result<Response<Body>, Problem> {
    let tenant = path_token(&tenant)?;
    let request = StreamRequest { api, tenant: tenant.clone(), address: None, headers };
    request.open(&permit, ActiveOrdersTopic::new(tenant)).await
}

/// Handles `GET /v1/{tenant}/{aggregate}/{id}/stream`.
pub(super) async fn stream_aggregate(
    State(api): ApiState,
    Extension(permit): Extension<RequestPermit>,
    Path((tenant, aggregate, id)): Path<(String, String, String)>,
    headers: HeaderMap,
) -> Result<Response<Body>, Problem> {
    let (tenant, id) = (path_token(&tenant)?, path_token(&id)?);
    let aggregate = Aggregate::parse(&aggregate).ok_or_else(unknown_aggregate)?;
    if aggregate == Aggregate::User {
        return Err(Refusal::new(404, "not_found", "a user has no stream").into());
    }
    let address = Address { tenant: tenant.clone(), aggregate, id };
    let request = StreamRequest { api, tenant, address: Some(address.clone()), headers };
    request.open(&permit, ViewTopic::new(address)).await
}

/// A request for a stream. It is kept while the stream is open, to be authorized again.
struct StreamRequest {
    api: Arc<HttpApi>,
    tenant: Token,
    /// The aggregate; `None` for the list of active orders.
    address: Option<Address>,
    headers: HeaderMap,
}

impl StreamRequest {
    async fn open(
        self,
        permit: &RequestPermit,
        topic: impl Topic,
    ) -> Result<Response<Body>, Problem> {
        let requester = self.authorize().await?;
        permit.confirm(requester.occupant(&self.tenant))?;
        // An id that is no text was never given, and is as unknown as any other.
        let last_event_id = self.headers.get(LAST_EVENT_ID);
        let last_event_id = last_event_id.map(|id| id.to_str().unwrap_or_default().to_owned());
        let (live, tenant) = (self.api.live.clone(), self.tenant.clone());
        let occupant = requester.occupant(&tenant);
        let request = Arc::new(self);
        let may_read = move || {
            let request = request.clone();
            // While Postgres is unavailable it goes on: nothing new is sent then.
            async move { request.authorize().await.err().is_none_or(|why| why.code() == "unconfirmed") }
        };
        let events = live.open(occupant, topic, last_event_id, may_read).await?;
        Ok(event_stream(Body::from_stream(events.map(Ok::<_, Infallible>))))
    }

    async fn authorize(&self) -> Result<Requester, Problem> {
        let auth = &self.api.auth;
        let requester = auth.identify(&self.tenant, &self.headers).await?;
        match &self.address {
            None => auth.authorize_list(&requester)?,
            Some(address) => auth.authorize_view(&requester, address).await?,
        }
        Ok(requester)
    }
}

fn event_stream(body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(X_ACCEL_BUFFERING, HeaderValue::from_static("no"));
    response
}
