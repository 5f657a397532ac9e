//! `GET /v1/openapi.json`: the HTTP face as an OpenAPI 3.1 document.
//!
//! It is generated: the paths of commands come from the table of verbs, their payloads and outcomes
//! from the types of the contract, the roles that may send them from [`super::policy`], and the
//! examples of errors from the type that writes errors.

mod lists;
mod money;
mod operations;
mod responses;
mod sessions;

use std::sync::LazyLock;

use axum::{
    http::{
        HeaderValue,
        header::{CACHE_CONTROL, CONTENT_TYPE},
    },
    response::IntoResponse,
};
use brigade_contracts::{Aggregate, Token, schema};
use bytes::Bytes;
use serde_json::{Map, Value, json};

use super::response::PUBLIC;

/// Handles `GET /v1/openapi.json`.
pub(super) async fn get_openapi() -> impl IntoResponse {
    static TEXT: LazyLock<Bytes> = LazyLock::new(|| document().to_string().into());
    let json = HeaderValue::from_static("application/json");
    ([(CONTENT_TYPE, json), (CACHE_CONTROL, PUBLIC)], TEXT.clone())
}

/// Returns the document.
#[must_use]
fn document() -> Value {
    let tags = Aggregate::ALL.map(Aggregate::as_str);
    let tags = tags.into_iter().chain(["queries"]).map(|name| json!({ "name": name }));
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "brigade",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Ordering and payment of restaurants. A command is sent under an id \
                of its sender's choice and may be repeated under it at any time: it is decided once, \
                and each repetition gets the same outcome. No answer is older than an outcome that \
                was given before the question.",
            "license": { "name": "Apache License 2.0", "identifier": "Apache-2.0" },
        },
        "servers": [{ "url": "/" }],
        "security": [{ "bearer": [] }, { "cookie": [] }],
        "tags": tags.collect::<Vec<_>>(),
        "paths": operations::paths(),
        "components": {
            "schemas": schemas(),
            "parameters": parameters(),
            "headers": headers(),
            "responses": responses::components(),
            "securitySchemes": { "bearer": {
                "type": "http", "scheme": "bearer",
                "description": "The access token of a session, which `login` and `refresh` give.",
            }, "cookie": {
                "type": "apiKey", "in": "cookie", "name": "__Host-brigade-{tenant}",
                "description": "The same in a cookie, which `createSession` sets if asked to.",
            } },
        },
    })
}

fn schemas() -> Map<String, Value> {
    let mut all = schema::components();
    let text = json!({ "type": "string" });
    let tokens = json!({
        "type": "object",
        "properties": {
            "access_token": text, "refresh_token": text,
            "expires_at": schema::reference("Timestamp"),
            "refresh_expires_at": schema::reference("Timestamp"),
        },
        "required": ["access_token", "refresh_token", "expires_at", "refresh_expires_at"],
    });
    let session = json!({ "allOf": [
        schema::reference("Outcome"), { "type": "object", "properties": { "data": tokens } },
    ] });
    let secrets = json!({
        "type": "object",
        "properties": {
            "secret": {
                "type": "string",
                "description": "By which customers join the cart, of a team cart.",
            },
            "session_secret": {
                "type": "string",
                "description": "By which a customer claims the cart, of a cart of a session.",
            },
        },
    });
    let with_secrets = json!({ "allOf": [
        schema::reference("Outcome"), { "type": "object", "properties": { "data": secrets } },
    ] });
    let problem = json!({
        "description": "RFC 9457, with what else stands in the outcome or the answer.",
        "allOf": [schema::reference("QueryError"), {
            "type": "object",
            "properties": {
                "type": {
                    "type": "string", "format": "uri-reference",
                    "description": "A page about the code.",
                },
                "title": text, "detail": text,
                "instance": { "type": "string", "description": "the number of the request" },
            },
            "required": ["type", "title", "detail"],
        }],
    });
    all["Outcome"]["examples"] = json!([responses::outcome()]);
    all.insert("SessionOutcome".to_owned(), session);
    all.insert("CartSecretOutcome".to_owned(), with_secrets);
    all.insert("NewSession".to_owned(), sessions::new_session());
    all.insert("Introspection".to_owned(), sessions::introspection());
    all.insert("Problem".to_owned(), problem);
    all
}

/// The parameters in paths: name and description.
const IN_PATH: [(&str, &str); 6] = [
    ("tenant", "The restaurant."),
    ("id", "Of the aggregate."),
    ("command_id", "Of the command."),
    ("code", "Of an error."),
    ("gateway", "A payment gateway of the restaurant."),
    ("owner", "Of carts: a user, or a session."),
];

/// Returns the parameters in paths and headers of requests, by the names that references use.
fn parameters() -> Value {
    let token = || schema::reference("Token");
    let text = |pattern: Option<&str>, description: &str| {
        let mut schema = json!({ "type": "string" });
        if let Some(pattern) = pattern {
            schema["pattern"] = json!(pattern);
        }
        (schema, description.to_owned())
    };
    let version = |description: &str| text(Some("^[0-9]+(-[0-9]+)?$"), description);
    let key = "The command's id, chosen by its sender, the same for every repetition. One of \
               Idempotency-Key and Command-Id has to be there.";
    let headers = [
        ("Idempotency-Key", (token(), key.to_owned())),
        ("Command-Id", (token(), key.to_owned())),
        ("Brigade-Csrf", text(None, "Any value; what changes something by a cookie needs it.")),
        (
            "Deadline",
            (
                schema::reference("Timestamp"),
                "Past it nothing is changed: 504 `deadline_passed`.".to_owned(),
            ),
        ),
        ("Expected-Version", version("Of the aggregate; else 412 `version_mismatch`.")),
        ("traceparent", text(None, "W3C Trace Context, carried into events and logs.")),
        ("If-None-Match", text(None, "The ETags that are known; 304 if one of them is present.")),
        ("Min-Version", version("Nothing below it is answered; see `Prefer`.")),
        ("Prefer", text(Some("wait=[0-9]+"), "`wait=S`: wait for at most so many seconds (30).")),
        ("Confirm", text(Some("^kv$"), "`kv`: an answer that may be late will do; it says so.")),
        ("Resume", text(None, "A position that an earlier answer gave: only what changed since.")),
        (
            "Limit",
            (json!({ "type": "integer", "minimum": 1 }), "Most rows of the page.".to_owned()),
        ),
        ("After", text(None, "Where the page begins: `after` of the page before it.")),
        ("Last-Event-ID", text(None, "The last `id` that was received: only what changed since.")),
    ];
    let mut all = Map::new();
    for (name, what) in IN_PATH {
        let path = json!({
            "name": name, "in": "path", "required": true, "schema": token(), "description": what,
        });
        all.insert(name.to_owned(), path);
    }
    for (name, schema, description) in in_query() {
        let parameter = json!({
            "name": name, "in": "query", "schema": schema, "description": description,
        });
        all.insert(name.to_owned(), parameter);
    }
    for (name, (schema, description)) in headers {
        let header = json!({
            "name": name, "in": "header", "schema": schema, "description": description,
        });
        all.insert(name.to_owned(), header);
    }
    Value::Object(all)
}

/// Returns the parameters of pages in the query of a path: name, schema, description.
fn in_query() -> [(&'static str, Value, &'static str); 5] {
    let word = json!({ "type": "string" });
    let day = json!({ "type": "string", "pattern": "^[0-9]{4}-[0-9]{2}-[0-9]{2}" });
    let limit = json!({ "type": "integer", "minimum": 1 });
    [
        ("limit", limit, "Most rows of the page."),
        ("after", word.clone(), "Where the page begins: `next` of the page before it."),
        ("before", word, "Only older entries: `before` of the answer before it."),
        ("day", day, "Only those of this day, in UTC or in the zone behind it (`+02:00`)."),
        ("payment", schema::reference("Token"), "Only the tasks of this payment."),
    ]
}

fn headers() -> Value {
    let text = json!({ "type": "string" });
    json!({
        "ETag": { "schema": text, "description": "Names this content; for If-None-Match." },
        "Link": { "schema": text, "description": "The next page, if there is one: `rel=\"next\"`." },
        "Idempotency-Replayed": {
            "schema": { "const": "true" },
            "description": "The outcome was stored before this request, under the same key.",
        },
        "Retry-After": {
            "schema": { "type": "integer", "minimum": 1 }, "description": "In seconds.",
        },
        "X-Request-Id": {
            "schema": { "type": "string", "maxLength": Token::MAX_LEN.max(36) },
            "description": "The number of the request: the sender's, or a new one.",
        },
    })
}

#[cfg(test)]
mod tests;
