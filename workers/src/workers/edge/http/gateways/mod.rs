//! `POST /v1/{tenant}/gateways/{gateway}`: a payment gateway tells what became of payments.
//!
//! A message is believed for its signature alone, which is checked over the bytes as they came
//! ([`signature`]), before anything is read of them. What it says becomes a `record_result` of the
//! gateway, under the id of the event as its Command-Id, so it is recorded once however often it
//! comes, and what comes late or in another order is for the rules of payments to decide. The answer
//! is 2xx only after the commit; else the gateway sends the message again.

mod signature;
mod stripe;

use async_nats::HeaderMap as NatsHeaders;
use axum::{
    Extension,
    body::Body,
    extract::{Path, Request, State},
    http::{
        HeaderMap, HeaderValue, Response,
        header::{CACHE_CONTROL, CONTENT_TYPE},
    },
};
use brigade_contracts::{
    Address, Aggregate, CommandKey, IdSpace, Refusal, Token,
    header::{ACTOR, COMMAND_ID, SOURCE, TRACEPARENT},
    payment::{RecordResult, Verb},
    subject,
};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::json;

use super::{
    admission::RequestPermit,
    commands::{OutcomeReply, decide, read_payload},
    extract::{path_token, select_headers, single_header},
    response::NOT_STORED,
    state::{ApiState, HttpApi},
};
use crate::{
    runtime::http::{ClientAddress, Problem},
    store::gateway_secrets::GatewayFormat,
    workers::edge::{
        admission::Occupant,
        metrics::GatewayMessages,
        query::{QueryReply, gateways::Gateway},
    },
};

/// A message of a gateway, whatever its format.
#[derive(Debug, PartialEq)]
struct GatewayMessage {
    /// The gateway's id of it, the same each time that it comes.
    id: Token,
    /// The payment that it is about, and its result; `None` if it is about none of ours.
    result: Option<(Token, RecordResult)>,
}

/// Handles `POST /v1/{tenant}/gateways/{gateway}`.
pub(super) async fn post_message(
    State(api): ApiState,
    Extension(permit): Extension<RequestPermit>,
    Extension(client): Extension<ClientAddress>,
    Path((tenant, gateway)): Path<(String, String)>,
    request: Request,
) -> Result<Response<Body>, Problem> {
    let from =
        ClaimedSender { tenant: path_token(&tenant)?, gateway: path_token(&gateway)?, client };
    let taken = from.take(&api, &permit, request).await;
    let result = match &taken {
        Ok((result, _)) => *result,
        Err(problem) if problem.status() == 401 => GatewayMessages::Forged,
        Err(problem) if problem.status() < 500 => GatewayMessages::Refused,
        Err(_) => GatewayMessages::Failed,
    };
    api.metrics.gateway_messages.with_label_values(&[result.as_str()]).inc();
    let (_, code) = taken?;
    let mut response = Response::new(Body::from(json!({ "code": code }).to_string()));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, NOT_STORED);
    Ok(response)
}

/// The gateway that says that it sends a message.
struct ClaimedSender {
    tenant: Token,
    gateway: Token,
    client: ClientAddress,
}

impl ClaimedSender {
    /// Takes a message. Returns what became of it, and the code of the outcome.
    async fn take(
        &self,
        api: &HttpApi,
        permit: &RequestPermit,
        request: Request,
    ) -> Result<(GatewayMessages, String), Problem> {
        api.auth.admit_tenant(&self.tenant).await?;
        let known = api.edge.queries.gateways.get(self.tenant.clone(), self.gateway.clone());
        let known = known.await.map_err(QueryReply::from)?.ok_or_else(unknown_gateway)?;
        let (head, body) = request.into_parts();
        let body = read_payload(&head.headers, body, &api.drain).await?;
        let message = read(&known, &head.headers, &body)?;
        permit.confirm(Occupant { tenant: self.tenant.as_str(), user: None, is_staff: true })?;
        let Some((payment, result)) = message.result else {
            return Ok((GatewayMessages::Ignored, "ignored".to_owned()));
        };
        let headers = self.command_headers(&head.headers, message.id)?;
        let reply = self.record(api, payment, result, &headers).await?;
        let is_replayed = reply.is_replayed;
        let outcome = reply.success()?;
        let result = if is_replayed { GatewayMessages::Repeated } else { GatewayMessages::Taken };
        Ok((result, code_of(&outcome)))
    }

    async fn record(
        &self,
        api: &HttpApi,
        payment: Token,
        result: RecordResult,
        headers: &NatsHeaders,
    ) -> Result<OutcomeReply, Problem> {
        let tenant = self.tenant.clone();
        let address = Address { tenant, aggregate: Aggregate::Payment, id: payment };
        let (verb, payload) = Verb::RecordResult(result).encode();
        let subject = subject::request(&address, verb);
        decide(&api.nats, &subject, headers, payload.into()).await
    }

    /// Returns the headers of the command. A gateway is a program of the tenant, so the id of its
    /// event stands in the name space of those.
    fn command_headers(&self, headers: &HeaderMap, id: Token) -> Result<NatsHeaders, Refusal> {
        let mut sent = NatsHeaders::new();
        for (name, value) in select_headers(headers, &[TRACEPARENT])? {
            sent.append(name, value);
        }
        let key = CommandKey { space: IdSpace::Nats, id };
        sent.insert(COMMAND_ID, key.to_string());
        sent.insert(ACTOR, format!("gateway-{}", self.gateway));
        sent.insert(SOURCE, self.client.0.to_string());
        Ok(sent)
    }
}

/// Checks the signature of a message, and reads it.
///
/// # Errors
/// `401 bad_signature`, `401 signature_expired`; 400 and 422 for what cannot be read.
fn read(gateway: &Gateway, headers: &HeaderMap, body: &Bytes) -> Result<GatewayMessage, Refusal> {
    match gateway.format {
        GatewayFormat::Stripe => {
            let signature = single_header(headers, stripe::SIGNATURE)?.unwrap_or_default();
            signature::check(signature, body, &gateway.secrets, gateway.now)?;
            stripe::read(body)
        }
    }
}

/// Reads a signature and a message that nobody has signed, for `tests/fuzz`. Returns whether that is
/// an event.
#[cfg(any(test, feature = "testing"))]
pub fn decode_unsigned(signature: &str, body: &[u8]) -> bool {
    let _forged = signature::check(signature, body, &["nobody has it".to_owned()], 0);
    stripe::read(body).is_ok()
}

fn code_of(outcome: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Coded {
        code: String,
    }
    serde_json::from_slice(outcome).map_or_else(|_| "ok".to_owned(), |Coded { code }| code)
}

fn unknown_gateway() -> Refusal {
    let message = "this restaurant has no gateway of this name";
    Refusal::new(404, "unknown_gateway", message)
}
