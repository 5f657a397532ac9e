//! The responses of operations.

use brigade_contracts::{Refusal, schema};
use serde_json::{Map, Value, json};

use crate::runtime::http::{PROBLEM_JSON, Problem};

/// The body of a response that is no error.
pub(super) enum ResponseBody {
    /// An outcome of a command that has this schema.
    Outcome(&'static str),
    /// A body of this schema, with an ETag.
    Tagged(Value),
    /// A body of this schema, with an ETag and a link to the next one.
    Page(Value),
    /// A body of this schema.
    Plain(Value),
    /// A text of this media type.
    Text(&'static str),
    /// Server-sent events.
    Events,
}

/// Every status of errors, with an example (code, message) and a description.
const ERRORS: [(u16, &str, &str, &str); 15] = [
    (400, "malformed", "missing field `user`", "The request cannot be read."),
    (401, "invalid_token", "this is not the token of a session", "No token, or not a valid one."),
    (
        403,
        "not_allowed",
        "this is not there, or not for the user of this token",
        "The role is not high enough, or it is another's.",
    ),
    (404, "not_found", "there is no such cart", "There is no such thing, or it is another's."),
    (408, "too_slow", "the body did not come in time", "The body did not come in time."),
    (409, "already_member", "this user is a member already", "It conflicts with the state."),
    (412, "version_mismatch", "the version is another one", "Another version than expected."),
    (413, "payload_too_large", "the payload has more than 65536 bytes", "The body is too large."),
    (415, "not_json", "the body has to be application/json", "The body is of another type."),
    (
        422,
        "quantity_out_of_range",
        "quantity: a quantity is 1 to 999",
        "Well-formed, but impossible.",
    ),
    (
        423,
        "cart_locked",
        "this cart is being paid; it can be changed again when the payment has \
        ended",
        "The cart is being paid. It says when to try again.",
    ),
    (
        429,
        "too_many",
        "too many requests of this tenant are waiting",
        "Too many requests of the tenant at once (`too_many`), or too many attempts to log in.",
    ),
    (500, "internal", "this was not foreseen, and is in the log", "It was not foreseen."),
    (
        503,
        "unconfirmed",
        "the database cannot be reached",
        "Not decided, or not confirmed, as far \
        as is known; repeat a command under the same id.",
    ),
    (504, "deadline_passed", "the deadline has passed", "Too late, or the version is not reached."),
];

/// Returns the responses of an operation: its success, and these other statuses.
pub(super) fn responses(status: u16, body: &ResponseBody, others: &[u16]) -> Map<String, Value> {
    let reference = |status: &u16| {
        let name = name_of(*status);
        (status.to_string(), json!({ "$ref": format!("#/components/responses/{name}") }))
    };
    let mut all: Map<String, Value> = others.iter().map(reference).collect();
    all.insert(status.to_string(), success(body));
    all
}

fn success(body: &ResponseBody) -> Value {
    let json_of = |schema: Value| json!({ "application/json": { "schema": schema } });
    let (description, content, more): (_, _, &[&str]) = match body {
        ResponseBody::Outcome(of) => {
            ("It is done.", json_of(schema::reference(of)), &["ETag", "Idempotency-Replayed"])
        }
        ResponseBody::Tagged(schema) => ("As it is now.", json_of(schema.clone()), &["ETag"]),
        ResponseBody::Page(schema) => ("As it is now.", json_of(schema.clone()), &["ETag", "Link"]),
        ResponseBody::Plain(schema) => ("As it is now.", json_of(schema.clone()), &[]),
        ResponseBody::Text(media_type) => {
            ("A page.", json!({ *media_type: { "schema": { "type": "string" } } }), &[])
        }
        ResponseBody::Events => {
            let events = json!({ "schema": { "type": "string" }, "example": EVENTS });
            (
                "Server-sent events, until either side ends it.",
                json!({ "text/event-stream": events }),
                &[],
            )
        }
    };
    let names = [more, &["X-Request-Id"]].concat();
    json!({ "description": description, "headers": headers(&names), "content": content })
}

/// First everything; then the changes. After a break, the changes since, or everything again.
const EVENTS: &str = "event: snapshot\nid: 12\ndata: {\"version\":12}\n\n\
                      event: change\nid: 13\ndata: {\"version\":13}\n\n\
                      event: reset\nid: 20\ndata: {\"version\":20}\n\n";

/// Returns an example of an outcome.
pub(super) fn outcome() -> Value {
    json!({
        "command_id": "k1", "status": 200, "code": "ok", "message": "done", "aggregate": "table",
        "id": "t5", "version": 4, "etag": "\"4\"", "effects": ["table.t5@4"],
        "data": { "core": {
            "version": 4, "at": "2026-01-02T03:04:05.678Z", "label": "5", "seats": 4,
            "status": "available", "open_turn": null,
        } },
        "retry_after_ms": null,
    })
}

/// Returns 304 and the errors, by the names that references use.
pub(super) fn components() -> Map<String, Value> {
    let not_modified = json!({
        "description": "One of the ETags that are known is the present one.",
        "headers": headers(&["ETag", "X-Request-Id"]),
    });
    let mut all = Map::from_iter([(name_of(304), not_modified)]);
    for (status, code, message, when) in ERRORS {
        let waits = [423, 429, 503].contains(&status);
        let refusal = Refusal::new(status, code, message);
        let refusal = Refusal { retry_after_ms: waits.then_some(1500), ..refusal };
        let example: Value =
            serde_json::from_slice(&Problem::from(refusal).body()).unwrap_or_default();
        let names: &[&str] =
            if waits { &["Retry-After", "X-Request-Id"] } else { &["X-Request-Id"] };
        let content = json!({ "schema": schema::reference("Problem"), "example": example });
        let response = json!({
            "description": when, "headers": headers(names), "content": { PROBLEM_JSON: content },
        });
        all.insert(name_of(status), response);
    }
    all
}

fn headers(names: &[&str]) -> Map<String, Value> {
    let reference = |name: &&str| {
        ((*name).to_owned(), json!({ "$ref": format!("#/components/headers/{name}") }))
    };
    names.iter().map(reference).collect()
}

fn name_of(status: u16) -> String {
    format!("Status{status}")
}
