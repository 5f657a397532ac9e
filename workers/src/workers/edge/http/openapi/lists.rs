//! The operations of lists.

use brigade_contracts::schema;
use serde_json::{Value, json};

use super::{
    operations::{audience, parameters},
    responses::{ResponseBody, responses},
};
use crate::workers::edge::http::policy::RequiredRole;

/// Returns the paths with their operations.
pub(super) fn paths() -> [(String, Value); 10] {
    [
        ("/v1/{tenant}/active-orders", active_orders()),
        ("/v1/{tenant}/products", products()),
        ("/v1/{tenant}/tables", page(&TABLES)),
        ("/v1/{tenant}/ended-orders", page(&ENDED_ORDERS)),
        ("/v1/{tenant}/refund-tasks", page(&REFUND_TASKS)),
        ("/v1/{tenant}/unknown-payments", page(&UNKNOWN_PAYMENTS)),
        ("/v1/{tenant}/me/carts", page(&MY_CARTS)),
        ("/v1/{tenant}/me/orders", page(&MY_ORDERS)),
        ("/v1/{tenant}/locks/{owner}", lock()),
        ("/v1/{tenant}/locks/{owner}/history", lock_history()),
    ]
    .map(|(path, get)| (path.to_owned(), json!({ "get": get })))
}

fn active_orders() -> Value {
    let body = ["ActiveOrders", "ActiveOrdersChanges"].map(schema::reference);
    let body = ResponseBody::Page(json!({ "oneOf": body }));
    json!({
        "operationId": "getActiveOrders",
        "tags": ["queries"],
        "summary": "The orders that are neither completed nor cancelled, newest first, in pages.",
        "description": format!("With `Resume`, what changed since. {}", audience(RequiredRole::Staff)),
        "parameters": parameters(
            &["tenant", "limit", "after"], &["If-None-Match", "Resume", "Confirm"],
        ),
        "responses": responses(200, &body, &[304, 400, 401, 403, 404, 429, 500, 503]),
    })
}

fn products() -> Value {
    let body = ResponseBody::Page(schema::reference("ProductPage"));
    json!({
        "operationId": "getProducts",
        "tags": ["queries"],
        "summary": "The price list, in the order of skus.",
        "description": audience(RequiredRole::Anybody),
        "security": [],
        "parameters": parameters(&["tenant", "limit", "after"], &["If-None-Match", "Limit", "After"]),
        "responses": responses(200, &body, &[304, 400, 403, 404, 429, 500, 503]),
    })
}

/// A list that is read page by page.
struct ListOperation {
    operation: &'static str,
    summary: &'static str,
    page: &'static str,
    role: RequiredRole,
    /// The parameters in its path besides.
    parameters: &'static [&'static str],
}

const TABLES: ListOperation = ListOperation {
    operation: "getTables",
    summary: "The tables, by id.",
    page: "TablePage",
    role: RequiredRole::Staff,
    parameters: &[],
};
const ENDED_ORDERS: ListOperation = ListOperation {
    operation: "getEndedOrders",
    summary: "The orders that have ended, the last one first.",
    page: "OrderPage",
    role: RequiredRole::Staff,
    parameters: &["day"],
};
const REFUND_TASKS: ListOperation = ListOperation {
    operation: "getRefundTasks",
    summary: "The money that is owed back, by task.",
    page: "RefundTaskPage",
    role: RequiredRole::Manager,
    parameters: &["payment"],
};
const UNKNOWN_PAYMENTS: ListOperation = ListOperation {
    operation: "getUnknownPayments",
    summary: "The payments whose result is unknown, by id.",
    page: "UnknownPaymentPage",
    role: RequiredRole::Manager,
    parameters: &[],
};
const MY_CARTS: ListOperation = ListOperation {
    operation: "getMyCarts",
    summary: "The open carts that the user owns, or is a member of, by id.",
    page: "CartPage",
    role: RequiredRole::Oneself,
    parameters: &[],
};
const MY_ORDERS: ListOperation = ListOperation {
    operation: "getMyOrders",
    summary: "The orders that carts of the user have become, newest first.",
    page: "OrderPage",
    role: RequiredRole::Oneself,
    parameters: &[],
};

fn page(list: &ListOperation) -> Value {
    let body = ResponseBody::Page(schema::reference(list.page));
    let in_path = [&["tenant", "limit", "after"], list.parameters].concat();
    json!({
        "operationId": list.operation,
        "tags": ["queries"],
        "summary": list.summary,
        "description": audience(list.role),
        "parameters": parameters(&in_path, &["If-None-Match"]),
        "responses": responses(200, &body, &[304, 400, 401, 403, 404, 429, 500, 503]),
    })
}

fn lock() -> Value {
    json!({
        "operationId": "getLock",
        "tags": ["queries"],
        "summary": "The lock over the carts of an owner, while it is held.",
        "description": format!("404 `not_locked` else. {}", audience(RequiredRole::Owner)),
        "parameters": parameters(&["tenant", "owner"], &[]),
        "responses": responses(
            200, &ResponseBody::Plain(schema::reference("Lock")), &[400, 401, 403, 404, 429, 500, 503],
        ),
    })
}

fn lock_history() -> Value {
    json!({
        "operationId": "getLockHistory",
        "tags": ["queries"],
        "summary": "What was done with the locks of an owner, newest first.",
        "description": audience(RequiredRole::Owner),
        "parameters": parameters(&["tenant", "owner", "limit", "before"], &[]),
        "responses": responses(
            200, &ResponseBody::Plain(schema::reference("LockHistory")),
            &[400, 401, 403, 404, 429, 500, 503],
        ),
    })
}
