//! What `nats micro info edge` tells of each endpoint, for whoever meets it there first (at most 80
//! characters a text, or the CLI cuts it off).

use serde_json::{Value, json};

use super::{LOCK, LOCK_HISTORY, OUTCOME, USER_STATE, USER_VALIDATE, VIEW};

/// Of the service as a whole.
pub(super) fn of_service() -> Value {
    json!({
        "promise": "no answer is older than an outcome that was sent before the query",
        "status": "in the header Brigade-Status; errors in Nats-Service-Error-Code too",
        "if_it_lags": "look at Postgres first, then start more edges",
    })
}

/// Of one endpoint: what to ask it, and what it answers.
pub(super) fn of_endpoint(name: &str) -> Value {
    let (ask, answers) = match name {
        VIEW => (
            "q.<tenant>.view.<aggregate>.<id>; If-None-Match, Min-Version with Wait-Ms",
            "200 with the parts and ETag, 304, 404, 504 where Min-Version is not reached",
        ),
        OUTCOME => (
            "q.<tenant>.outcome.<command_id>; Wait-Ms",
            "200 with the outcome of the command, 404 not_decided",
        ),
        LOCK => (
            "q.<tenant>.lock.<owner>",
            "200 with cart, method, acquired_at and expires_at, 404 not_locked",
        ),
        LOCK_HISTORY => (
            "q.<tenant>.lock_history.<owner>; Limit, Before",
            "200 with the entries, newest first, and `before` where there are older ones",
        ),
        USER_VALIDATE => (
            "q.<tenant>.user.<id>.validate; {access_token}",
            "200 with user, profile_id, roles, subscription and expires_at, 401",
        ),
        USER_STATE => {
            ("q.<tenant>.user.<id>.state", "200 with the parts auth, subscription and roles, 404")
        }
        _ => return json!({}),
    };
    json!({ "ask": ask, "answers": answers })
}
