//! The metadata that `nats micro info edge` prints of each endpoint, for whoever meets it there
//! first (at most 80 characters a text, or the CLI cuts it off).

use serde_json::{Value, json};

use crate::workers::edge::endpoint::Endpoint;

/// Returns the metadata of the service as a whole.
pub fn service_metadata() -> Value {
    json!({
        "promise": "no answer is older than an outcome that was sent before the query",
        "status": "in the header Brigade-Status; errors in Nats-Service-Error-Code too",
        "if_it_lags": "look at Postgres first, then start more edges",
    })
}

/// Returns the metadata of an endpoint: the query that it takes, and its responses.
pub fn endpoint_metadata(endpoint: Endpoint) -> Value {
    json!({ "ask": query(endpoint), "answers": responses(endpoint) })
}

/// Returns the subject of the query, and the headers or the payload that it may have.
fn query(endpoint: Endpoint) -> &'static str {
    match endpoint {
        Endpoint::View => {
            "q.<tenant>.view.<aggregate>.<id>; If-None-Match, Min-Version with Wait-Ms"
        }
        Endpoint::Outcome => "q.<tenant>.outcome.<command_id>; Wait-Ms",
        Endpoint::ActiveOrders => {
            "q.<tenant>.active_orders; If-None-Match, Resume, or Limit and After"
        }
        Endpoint::Products => "q.<tenant>.products; If-None-Match, Limit, After",
        Endpoint::DayClose => "q.<tenant>.day_close; From, To",
        Endpoint::Tables => "q.<tenant>.tables; If-None-Match, Limit, After",
        Endpoint::Carts => "q.<tenant>.carts.<user>; If-None-Match, Limit, After",
        Endpoint::Orders => "q.<tenant>.orders.<user>; If-None-Match, Limit, After",
        Endpoint::EndedOrders => "q.<tenant>.ended_orders; If-None-Match, Limit, After, Day",
        Endpoint::RefundTasks => "q.<tenant>.refund_tasks; If-None-Match, Limit, After, Payment",
        Endpoint::UnknownPayments => "q.<tenant>.unknown_payments; If-None-Match, Limit, After",
        Endpoint::Lock => "q.<tenant>.lock.<owner>",
        Endpoint::LockHistory => "q.<tenant>.lock_history.<owner>; Limit, Before",
        Endpoint::UserValidate => "q.<tenant>.user.<id>.validate; {access_token}",
        Endpoint::UserState => "q.<tenant>.user.<id>.state",
        Endpoint::UserSessions => "q.<tenant>.user.<id>.sessions",
    }
}

/// Returns the statuses of the responses, with their content.
fn responses(endpoint: Endpoint) -> &'static str {
    match endpoint {
        Endpoint::View => {
            "200 with the parts and ETag, 304, 404, 504 where Min-Version is not reached"
        }
        Endpoint::Outcome => "200 with the outcome of the command, 404 not_decided",
        Endpoint::ActiveOrders => "200 with a page of orders and ETag, or what changed since; 304",
        Endpoint::Products => {
            "200 with a page of the price list and ETag, `after` where there are more; 304"
        }
        Endpoint::DayClose => "200 with the money by method and currency, which balances",
        Endpoint::Tables => "200 with a page of tables and ETag, `next` where there are more; 304",
        Endpoint::Carts => "200 with a page of the user's open carts and ETag, and `next`; 304",
        Endpoint::Orders => "200 with a page of the user's orders, newest first, and `next`; 304",
        Endpoint::EndedOrders => {
            "200 with a page of orders that ended, newest first, and `next`; 304"
        }
        Endpoint::RefundTasks => "200 with a page of what is owed back, and `next`; 304",
        Endpoint::UnknownPayments => {
            "200 with a page of payments without a result, and `next`; 304"
        }
        Endpoint::Lock => "200 with cart, method, acquired_at and expires_at, 404 not_locked",
        Endpoint::LockHistory => {
            "200 with the entries, newest first, and `before` where there are older ones"
        }
        Endpoint::UserValidate => {
            "200 with user, profile_id, roles, subscription and expires_at, 401"
        }
        Endpoint::UserState => "200 with the parts auth, subscription and roles, 404",
        Endpoint::UserSessions => "200 with the sessions that go on, 404",
    }
}
