//! The operations about money that are no command of an aggregate.

use brigade_contracts::schema;
use serde_json::{Value, json};

use super::{
    operations::{audience, parameters},
    responses::{ResponseBody, responses},
};
use crate::workers::edge::http::policy::RequiredRole;

/// Returns the paths with their operations.
pub(super) fn paths() -> [(String, Value); 2] {
    let tenant = "/v1/{tenant}";
    [
        (format!("{tenant}/day-close"), json!({ "get": day_close() })),
        (format!("{tenant}/gateways/{{gateway}}"), json!({ "post": message() })),
    ]
}

fn day_close() -> Value {
    let time = |name: &str, description: &str| {
        json!({
            "name": name, "in": "query", "schema": schema::reference("Timestamp"),
            "description": description,
        })
    };
    let mut parameters = parameters(&["tenant"], &[]);
    parameters.push(time("from", "By default a day before `to`, or the last midnight in UTC."));
    parameters.push(time("to", "By default a day after `from`; at most 31 days."));
    json!({
        "operationId": "getDayClose",
        "tags": ["queries"],
        "summary": "The money of a day, or of another time, by method and currency; it balances.",
        "description": audience(RequiredRole::Manager),
        "parameters": parameters,
        "responses": responses(
            200, &ResponseBody::Plain(schema::reference("DayClose")),
            &[400, 401, 403, 404, 429, 500, 503],
        ),
    })
}

fn message() -> Value {
    let signature = json!({
        "name": "Stripe-Signature", "in": "header", "schema": { "type": "string" },
        "description": "`t=…,v1=…`, at most 5 minutes old, with a secret of the gateway.",
    });
    let mut parameters = parameters(&["tenant", "gateway"], &["traceparent"]);
    parameters.push(signature);
    let event = json!({ "type": "object", "description": "An event of Stripe." });
    let taken = json!({
        "type": "object", "properties": { "code": { "type": "string" } }, "required": ["code"],
    });
    json!({
        "operationId": "postGatewayMessage",
        "tags": ["payment"],
        "summary": "A payment gateway tells what became of a payment.",
        "description": "2xx only when that is recorded, or of no payment of the restaurant. Needs no \
            token: the signature says who sends it.",
        "security": [],
        "parameters": parameters,
        "requestBody": { "required": true, "content": { "application/json": { "schema": event } } },
        "responses": responses(
            200, &ResponseBody::Plain(taken),
            &[400, 401, 403, 404, 408, 409, 413, 422, 429, 500, 503],
        ),
    })
}
