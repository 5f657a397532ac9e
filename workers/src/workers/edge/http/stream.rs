//! `GET /v1/{tenant}/active-orders/stream` and `GET /v1/{tenant}/{aggregate}/{id}/stream`:
//! server-sent events, as they come from [`super::super::streams`].

use std::{convert::Infallible, sync::Arc};

use axum::{
    Extension,
    body::Body,
    extract::{Path, State},
    http::{HeaderMap, HeaderName, HeaderValue, Response, header::CONTENT_TYPE},
};
use brigade_contracts::{Address, Aggregate, Token};
use futures::StreamExt;

use super::{Shared, admission::Admission, head::token, reads::unknown_aggregate};
use crate::{
    runtime::http::Problem,
    workers::edge::{
        Edge,
        streams::{self, ActiveOrders, Topic, View},
    },
};

const LAST_EVENT_ID: &str = "last-event-id";
/// Proxies that know it (nginx) hand each event on as it comes.
const X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

pub(super) async fn active_orders(
    State(edge): Shared,
    Extension(admission): Extension<Admission>,
    Path(tenant): Path<String>,
    headers: HeaderMap,
) -> Result<Response<Body>, Problem> {
    let tenant = token(&tenant)?;
    let asked = Asked { edge, tenant: tenant.clone(), of: None, headers };
    asked.stream(&admission, ActiveOrders::new(tenant)).await
}

pub(super) async fn aggregate(
    State(edge): Shared,
    Extension(admission): Extension<Admission>,
    Path((tenant, aggregate, id)): Path<(String, String, String)>,
    headers: HeaderMap,
) -> Result<Response<Body>, Problem> {
    let (tenant, id) = (token(&tenant)?, token(&id)?);
    let aggregate = Aggregate::parse(&aggregate).filter(|what| *what != Aggregate::User);
    let aggregate = aggregate.ok_or_else(unknown_aggregate)?;
    let address = Address { tenant: tenant.clone(), aggregate, id };
    let asked = Asked { edge, tenant, of: Some(address.clone()), headers };
    asked.stream(&admission, View::new(address)).await
}

/// Who asks for a stream, and of what.
struct Asked {
    edge: Arc<Edge>,
    tenant: Token,
    /// `None`: of a list.
    of: Option<Address>,
    headers: HeaderMap,
}

impl Asked {
    async fn stream(
        self,
        admission: &Admission,
        topic: impl Topic,
    ) -> Result<Response<Body>, Problem> {
        self.may_read().await?;
        admission.confirmed(&self.tenant)?;
        // One that is no text was never given, and is as unknown as any other.
        let last = self.headers.get(LAST_EVENT_ID);
        let last = last.map(|id| id.to_str().unwrap_or_default().to_owned());
        let (edge, tenant) = (self.edge.clone(), self.tenant.clone());
        let asked = Arc::new(self);
        let still = move || {
            let asked = asked.clone();
            // While Postgres is away it goes on: nothing is told that was not told before.
            async move { asked.may_read().await.err().is_none_or(|why| why.code() == "unconfirmed") }
        };
        let frames = streams::read(&edge, &tenant, topic, last, still).await?;
        Ok(response(Body::from_stream(frames.map(Ok::<_, Infallible>))))
    }

    async fn may_read(&self) -> Result<(), Problem> {
        let who = self.edge.who(&self.tenant, &self.headers).await?;
        match &self.of {
            None => self.edge.may_list(&who),
            Some(address) => self.edge.may_read(&who, address).await,
        }
    }
}

fn response(body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(X_ACCEL_BUFFERING, HeaderValue::from_static("no"));
    response
}
