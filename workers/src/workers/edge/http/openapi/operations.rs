//! The operations, path by path.

use brigade_contracts::{
    Aggregate,
    schema::{self, Verb},
};
use serde_json::{Map, Value, json};

use super::responses::{ResponseBody, responses};
use crate::workers::edge::http::policy::{RequiredRole, verb_policy, view_role};

/// Returns all paths with their operations.
pub(super) fn paths() -> Map<String, Value> {
    let mut paths = Map::new();
    for verb in schema::verbs() {
        let path = format!("/v1/{{tenant}}/{}/{{id}}/{}", verb.aggregate, verb.name);
        paths.insert(path, json!({ "post": command(&verb) }));
    }
    for aggregate in Aggregate::ALL {
        let path = format!("/v1/{{tenant}}/{aggregate}/{{id}}");
        if aggregate != Aggregate::User {
            let stream = view_stream(aggregate);
            paths.insert(format!("{path}/stream"), json!({ "get": stream }));
        }
        paths.insert(path, json!({ "get": view(aggregate) }));
    }
    let others = [
        ("/v1/{tenant}/active-orders/stream", active_orders_stream()),
        ("/v1/{tenant}/outcomes/{command_id}", outcome()),
        ("/v1/errors", errors()),
        ("/v1/errors/{code}", error()),
        ("/v1/openapi.json", itself()),
    ];
    paths.extend(others.map(|(path, get)| (path.to_owned(), json!({ "get": get }))));
    paths.extend(super::lists::paths());
    paths.extend(super::sessions::paths());
    paths.extend(super::money::paths());
    paths
}

fn command(verb: &Verb) -> Value {
    let Verb { aggregate, name, about, component, .. } = verb;
    let (status, about) = match about.strip_prefix("201. ") {
        Some(about) => (201, about),
        None => (200, *about),
    };
    let about = about.trim_end_matches("Request door only.").trim_end();
    let outcome = match (aggregate, *name) {
        (Aggregate::User, "login" | "refresh") => "SessionOutcome",
        (Aggregate::Cart, "open" | "invite") => "CartSecretOutcome",
        _ => "Outcome",
    };
    let mut errors = vec![400, 401, 403, 404, 408, 409, 412, 413, 415, 422, 429, 500, 503, 504];
    if matches!(aggregate, Aggregate::Cart | Aggregate::Payment) {
        errors.push(423);
    }
    let role = verb_policy(*aggregate, name).map_or(RequiredRole::Never, |policy| policy.role);
    let headers = ["Idempotency-Key", "Command-Id", "Deadline", "Expected-Version", "traceparent"];
    let mut operation = json!({
        "operationId": component,
        "tags": [aggregate.as_str()],
        "summary": about.split_inclusive('.').next(),
        "description": format!("{about} {}", audience(role)),
        "parameters": parameters(&["tenant", "id"], &headers),
        "requestBody": {
            "required": true,
            "content": { "application/json": { "schema": schema::reference(component) } },
        },
        "responses": responses(status, &ResponseBody::Outcome(outcome), &errors),
    });
    if role == RequiredRole::Anybody {
        operation["security"] = json!([]);
    }
    operation
}

fn view(aggregate: Aggregate) -> Value {
    let name = kind(aggregate);
    let mut errors = vec![400, 401, 403, 404, 429, 500, 503];
    let (body, headers) = if aggregate == Aggregate::User {
        (ResponseBody::Plain(schema::reference("UserState")), vec![])
    } else {
        errors.extend([304, 504]);
        let view = schema::reference(&format!("{name}View"));
        (ResponseBody::Tagged(view), vec!["If-None-Match", "Min-Version", "Prefer", "Confirm"])
    };
    json!({
        "operationId": format!("get{name}"),
        "tags": [aggregate.as_str()],
        "summary": format!("What there is of a {aggregate}."),
        "description": audience(view_role(aggregate)),
        "parameters": parameters(&["tenant", "id"], &headers),
        "responses": responses(200, &body, &errors),
    })
}

fn view_stream(aggregate: Aggregate) -> Value {
    let name = kind(aggregate);
    json!({
        "operationId": format!("stream{name}"),
        "tags": [aggregate.as_str()],
        "summary": format!("A {aggregate}, and each change of it as it happens."),
        "description": format!("Each event holds a `{name}View`. {}", audience(view_role(aggregate))),
        "parameters": parameters(&["tenant", "id"], &["Last-Event-ID"]),
        "responses": responses(200, &ResponseBody::Events, &[400, 401, 403, 404, 429, 500, 503]),
    })
}

fn active_orders_stream() -> Value {
    json!({
        "operationId": "streamActiveOrders",
        "tags": ["queries"],
        "summary": "The active orders, and each change of them as it happens.",
        "description": format!(
            "A snapshot, and each `more` after it, holds `ActiveOrders`, a change one `ActiveRow`. {}",
            audience(RequiredRole::Staff)
        ),
        "parameters": parameters(&["tenant"], &["Last-Event-ID"]),
        "responses": responses(200, &ResponseBody::Events, &[400, 401, 403, 404, 429, 500, 503]),
    })
}

fn outcome() -> Value {
    json!({
        "operationId": "getOutcome",
        "tags": ["queries"],
        "summary": "The outcome of a command.",
        "description": "404 `not_decided` while there is none. For whoever sent the command.",
        "parameters": parameters(&["tenant", "command_id"], &["Prefer"]),
        "responses": responses(
            200, &ResponseBody::Plain(schema::reference("Outcome")), &[400, 401, 403, 404, 429, 500, 503],
        ),
    })
}

fn errors() -> Value {
    json!({
        "operationId": "getErrors",
        "tags": ["queries"],
        "summary": "What all codes mean.",
        "security": [],
        "responses": responses(200, &ResponseBody::Text("text/markdown"), &[429, 500, 503]),
    })
}

fn error() -> Value {
    json!({
        "operationId": "getError",
        "tags": ["queries"],
        "summary": "What a code means; the `type` of an error leads here.",
        "security": [],
        "parameters": parameters(&["code"], &[]),
        "responses": responses(200, &ResponseBody::Text("text/plain"), &[404, 429, 500, 503]),
    })
}

fn itself() -> Value {
    json!({
        "operationId": "getOpenApi",
        "tags": ["queries"],
        "summary": "This document.",
        "security": [],
        "responses": responses(200, &ResponseBody::Plain(json!({ "type": "object" })), &[429, 500, 503]),
    })
}

pub(super) fn parameters(in_path: &[&str], in_headers: &[&str]) -> Vec<Value> {
    let reference = |name| json!({ "$ref": format!("#/components/parameters/{name}") });
    in_path.iter().chain(in_headers).map(reference).collect()
}

/// Returns the name of an aggregate with a capital letter.
fn kind(aggregate: Aggregate) -> String {
    let (first, rest) = aggregate.as_str().split_at(1);
    format!("{}{rest}", first.to_ascii_uppercase())
}

/// Returns a sentence about who may use an operation.
pub(super) fn audience(role: RequiredRole) -> &'static str {
    match role {
        RequiredRole::Anybody => "Needs no token.",
        RequiredRole::Customer => "For everybody who is logged in.",
        RequiredRole::Invited => "For customers who show the secret of the cart, and for staff.",
        RequiredRole::Claimant => {
            "For customers who show the secret of the session, or whose it is, and for staff."
        }
        RequiredRole::Member | RequiredRole::Participant => {
            "For customers whose it is or who take part in it, and for staff."
        }
        RequiredRole::Payer => "For customers who pay it or own what it pays, and for staff.",
        RequiredRole::PayerOrGateway => {
            "For customers who pay it or own what it pays, for the gateway, and for staff."
        }
        RequiredRole::Owner => "For customers whose it is, and for staff.",
        RequiredRole::Gateway => "For the gateway.",
        RequiredRole::Oneself => "For the user itself.",
        RequiredRole::OneselfOrManager => "For the user itself, and for managers.",
        RequiredRole::Staff => "For staff.",
        RequiredRole::Manager => "For managers.",
        RequiredRole::Never => "For nobody over HTTP.",
    }
}
