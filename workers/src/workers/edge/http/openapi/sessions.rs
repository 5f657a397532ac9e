//! The operations about sessions that are no command of an aggregate.

use brigade_contracts::{Aggregate, schema};
use serde_json::{Value, json};

use super::{
    operations::{audience, parameters},
    responses::{ResponseBody, responses},
};
use crate::workers::edge::http::policy::{RequiredRole, view_role};

/// Returns the paths with their operations.
pub(super) fn paths() -> [(String, Value); 7] {
    let tenant = "/v1/{tenant}";
    [
        (format!("{tenant}/sessions"), json!({ "post": create() })),
        (format!("{tenant}/sessions/refresh"), json!({ "post": refresh() })),
        (format!("{tenant}/sessions/current"), json!({ "delete": end() })),
        (format!("{tenant}/password-resets"), json!({ "post": password_reset() })),
        (format!("{tenant}/me"), json!({ "get": me() })),
        (format!("{tenant}/introspect"), json!({ "post": introspect() })),
        (format!("{tenant}/user/{{id}}/sessions"), json!({ "get": list() })),
    ]
}

/// Returns the schema of a session with its tokens, which are in cookies if that was asked for.
pub(super) fn new_session() -> Value {
    let text = json!({ "type": "string" });
    let time = schema::reference("Timestamp");
    json!({
        "type": "object",
        "properties": {
            "user": schema::reference("Token"), "session": schema::reference("Token"),
            "access_token": text, "refresh_token": text,
            "expires_at": time, "refresh_expires_at": time,
        },
        "required": ["user", "session", "expires_at", "refresh_expires_at"],
    })
}

/// Returns the schema of what is told of a token.
pub(super) fn introspection() -> Value {
    let text = json!({ "type": "string" });
    json!({
        "type": "object",
        "description": "RFC 7662. Of a token that is not good, `active` alone.",
        "properties": {
            "active": { "type": "boolean" }, "sub": schema::reference("Token"),
            "scope": { "type": "string", "description": "the roles" },
            "token_type": text, "exp": { "type": "integer" },
            "sid": schema::reference("Token"), "profile_id": schema::reference("Token"),
        },
        "required": ["active"],
    })
}

fn create() -> Value {
    let with_cookies = json!({
        "name": "cookies", "in": "query", "schema": { "const": "true" },
        "description": "The tokens come as cookies, and not in the body.",
    });
    let mut parameters = parameters(&["tenant"], &["Idempotency-Key", "traceparent"]);
    parameters.push(with_cookies);
    json!({
        "operationId": "createSession",
        "tags": ["user"],
        "summary": "Begins a session by email and password.",
        "description": audience(RequiredRole::Anybody),
        "security": [],
        "parameters": parameters,
        "requestBody": {
            "required": true,
            "content": { "application/json": { "schema": schema::reference("UserLogin") } },
        },
        "responses": responses(
            201, &ResponseBody::Plain(schema::reference("NewSession")),
            &[400, 401, 403, 404, 408, 413, 415, 422, 429, 500, 503],
        ),
    })
}

fn refresh() -> Value {
    json!({
        "operationId": "refreshSession",
        "tags": ["user"],
        "summary": "New cookies for the session whose refresh token is in a cookie.",
        "description": "Needs the header `Brigade-Csrf`.",
        "security": [],
        "parameters": parameters(&["tenant"], &["Idempotency-Key", "Brigade-Csrf"]),
        "responses": responses(
            200, &ResponseBody::Plain(schema::reference("NewSession")),
            &[400, 401, 403, 404, 429, 500, 503],
        ),
    })
}

fn end() -> Value {
    let mut responses =
        responses(204, &ResponseBody::Plain(json!({})), &[400, 401, 403, 404, 409, 429, 500, 503]);
    if let Some(done) = responses.get_mut("204").and_then(Value::as_object_mut) {
        done.remove("content");
        done.insert("description".to_owned(), json!("It is done; the cookies are taken away."));
    }
    json!({
        "operationId": "endSession",
        "tags": ["user"],
        "summary": "Ends the session of the token.",
        "description": audience(RequiredRole::Customer),
        "parameters": parameters(&["tenant"], &["Idempotency-Key", "Brigade-Csrf"]),
        "responses": responses,
    })
}

fn password_reset() -> Value {
    let text = json!({ "type": "string" });
    let accepted = json!({
        "type": "object", "properties": { "code": text, "message": text },
        "required": ["code", "message"],
    });
    json!({
        "operationId": "requestPasswordReset",
        "tags": ["user"],
        "summary": "Has a token for a new password sent to whoever has the email.",
        "description": "The answer is the same whether anybody has it. Needs no token.",
        "security": [],
        "parameters": parameters(&["tenant"], &["Idempotency-Key"]),
        "requestBody": {
            "required": true,
            "content": { "application/json": {
                "schema": schema::reference("UserRequestPasswordReset"),
            } },
        },
        "responses": responses(
            202, &ResponseBody::Plain(accepted), &[400, 404, 408, 413, 415, 422, 429, 500, 503],
        ),
    })
}

fn me() -> Value {
    json!({
        "operationId": "getMe",
        "tags": ["user"],
        "summary": "The state of the user of the token.",
        "description": audience(RequiredRole::Customer),
        "parameters": parameters(&["tenant"], &[]),
        "responses": responses(
            200, &ResponseBody::Plain(schema::reference("UserState")),
            &[400, 401, 403, 404, 429, 500, 503],
        ),
    })
}

fn introspect() -> Value {
    let form = json!({
        "type": "object",
        "properties": { "token": { "type": "string", "format": "password" } },
        "required": ["token"],
    });
    json!({
        "operationId": "introspect",
        "tags": ["user"],
        "summary": "Whose an access token is, and until when (RFC 7662).",
        "description": audience(RequiredRole::Staff),
        "parameters": parameters(&["tenant"], &["Brigade-Csrf"]),
        "requestBody": {
            "required": true,
            "content": { "application/x-www-form-urlencoded": { "schema": form } },
        },
        "responses": responses(
            200, &ResponseBody::Plain(schema::reference("Introspection")),
            &[400, 401, 403, 404, 408, 413, 415, 429, 500, 503],
        ),
    })
}

fn list() -> Value {
    json!({
        "operationId": "getSessions",
        "tags": ["user"],
        "summary": "The sessions of a user, the one that was used last first.",
        "description": audience(view_role(Aggregate::User)),
        "parameters": parameters(&["tenant", "id"], &[]),
        "responses": responses(
            200, &ResponseBody::Plain(schema::reference("Sessions")),
            &[400, 401, 403, 404, 429, 500, 503],
        ),
    })
}
