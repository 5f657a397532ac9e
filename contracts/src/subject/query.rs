//! The subjects of queries.

use super::split;
use crate::{Address, Aggregate, Token};

/// Queries of views: `q.<tenant>.view.<aggregate>.<id>`.
pub const QUERY_VIEW: &str = "q.*.view.*.*";
/// Queries of outcomes: `q.<tenant>.outcome.<command_id>`.
pub const QUERY_OUTCOME: &str = "q.*.outcome.*";
/// Queries of the active list: `q.<tenant>.active_orders`.
pub const QUERY_ACTIVE_ORDERS: &str = "q.*.active_orders";
/// Queries of the price list: `q.<tenant>.products`.
pub const QUERY_PRODUCTS: &str = "q.*.products";
/// Queries of a day close: `q.<tenant>.day_close`.
pub const QUERY_DAY_CLOSE: &str = "q.*.day_close";
/// Queries of all tables: `q.<tenant>.tables`.
pub const QUERY_TABLES: &str = "q.*.tables";
/// Queries of the open carts of a user: `q.<tenant>.carts.<user>`.
pub const QUERY_CARTS: &str = "q.*.carts.*";
/// Queries of the orders of a user: `q.<tenant>.orders.<user>`.
pub const QUERY_ORDERS: &str = "q.*.orders.*";
/// Queries of the orders that have ended: `q.<tenant>.ended_orders`.
pub const QUERY_ENDED_ORDERS: &str = "q.*.ended_orders";
/// Queries of the money that is owed back: `q.<tenant>.refund_tasks`.
pub const QUERY_REFUND_TASKS: &str = "q.*.refund_tasks";
/// Queries of the payments whose result is unknown: `q.<tenant>.unknown_payments`.
pub const QUERY_UNKNOWN_PAYMENTS: &str = "q.*.unknown_payments";
/// Queries of locks: `q.<tenant>.lock.<owner>`.
pub const QUERY_LOCK: &str = "q.*.lock.*";
/// Queries of the history of locks: `q.<tenant>.lock_history.<owner>`.
pub const QUERY_LOCK_HISTORY: &str = "q.*.lock_history.*";
/// Queries whether an access token is a user's: `q.<tenant>.user.<id>.validate`.
pub const QUERY_USER_VALIDATE: &str = "q.*.user.*.validate";
/// Queries of what is known of users: `q.<tenant>.user.<id>.state`.
pub const QUERY_USER_STATE: &str = "q.*.user.*.state";
/// Queries of the sessions of users: `q.<tenant>.user.<id>.sessions`.
pub const QUERY_USER_SESSIONS: &str = "q.*.user.*.sessions";

#[must_use]
pub fn query_view(address: &Address) -> String {
    format!("q.{}.view.{}.{}", address.tenant, address.aggregate, address.id)
}

#[must_use]
pub fn query_outcome(tenant: &Token, command_id: &Token) -> String {
    format!("q.{tenant}.outcome.{command_id}")
}

#[must_use]
pub fn query_active_orders(tenant: &Token) -> String {
    format!("q.{tenant}.active_orders")
}

#[must_use]
pub fn query_products(tenant: &Token) -> String {
    format!("q.{tenant}.products")
}

#[must_use]
pub fn query_day_close(tenant: &Token) -> String {
    format!("q.{tenant}.day_close")
}

#[must_use]
pub fn query_lock(tenant: &Token, owner: &Token) -> String {
    format!("q.{tenant}.lock.{owner}")
}

#[must_use]
pub fn query_lock_history(tenant: &Token, owner: &Token) -> String {
    format!("q.{tenant}.lock_history.{owner}")
}

#[must_use]
pub fn query_user_validate(user: &Address) -> String {
    format!("q.{}.user.{}.validate", user.tenant, user.id)
}

#[must_use]
pub fn query_user_state(user: &Address) -> String {
    format!("q.{}.user.{}.state", user.tenant, user.id)
}

#[must_use]
pub fn query_user_sessions(user: &Address) -> String {
    format!("q.{}.user.{}.sessions", user.tenant, user.id)
}

/// The address that a `q.<tenant>.view.<aggregate>.<id>` asks for.
#[must_use]
pub fn parse_query_view(subject: &str) -> Option<Address> {
    let [q, tenant, view, aggregate, id] = split(subject)?;
    if (q, view) != ("q", "view") {
        return None;
    }
    Address::new(tenant, Aggregate::parse(aggregate)?, id).ok()
}

/// Tenant and command id of a `q.<tenant>.outcome.<command_id>`.
#[must_use]
pub fn parse_query_outcome(subject: &str) -> Option<(Token, Token)> {
    let [q, tenant, outcome, command_id] = split(subject)?;
    if (q, outcome) != ("q", "outcome") {
        return None;
    }
    Some((Token::new(tenant).ok()?, Token::new(command_id).ok()?))
}

/// The tenant of a `q.<tenant>.active_orders`.
#[must_use]
pub fn parse_query_active_orders(subject: &str) -> Option<Token> {
    list_of_tenant(subject, "active_orders")
}

/// The tenant of a `q.<tenant>.products`.
#[must_use]
pub fn parse_query_products(subject: &str) -> Option<Token> {
    list_of_tenant(subject, "products")
}

/// The tenant of a `q.<tenant>.day_close`.
#[must_use]
pub fn parse_query_day_close(subject: &str) -> Option<Token> {
    list_of_tenant(subject, "day_close")
}

/// The tenant of a `q.<tenant>.tables`.
#[must_use]
pub fn parse_query_tables(subject: &str) -> Option<Token> {
    list_of_tenant(subject, "tables")
}

/// The user whose open carts a `q.<tenant>.carts.<user>` asks for.
#[must_use]
pub fn parse_query_carts(subject: &str) -> Option<Address> {
    list_of_one(subject, "carts", Aggregate::User)
}

/// The user whose orders a `q.<tenant>.orders.<user>` asks for.
#[must_use]
pub fn parse_query_orders(subject: &str) -> Option<Address> {
    list_of_one(subject, "orders", Aggregate::User)
}

/// The tenant of a `q.<tenant>.ended_orders`.
#[must_use]
pub fn parse_query_ended_orders(subject: &str) -> Option<Token> {
    list_of_tenant(subject, "ended_orders")
}

/// The tenant of a `q.<tenant>.refund_tasks`.
#[must_use]
pub fn parse_query_refund_tasks(subject: &str) -> Option<Token> {
    list_of_tenant(subject, "refund_tasks")
}

/// The tenant of a `q.<tenant>.unknown_payments`.
#[must_use]
pub fn parse_query_unknown_payments(subject: &str) -> Option<Token> {
    list_of_tenant(subject, "unknown_payments")
}

/// The address of the lock that a `q.<tenant>.lock.<owner>` asks for.
#[must_use]
pub fn parse_query_lock(subject: &str) -> Option<Address> {
    list_of_one(subject, "lock", Aggregate::Lock)
}

/// The address of the lock that a `q.<tenant>.lock_history.<owner>` asks for.
#[must_use]
pub fn parse_query_lock_history(subject: &str) -> Option<Address> {
    list_of_one(subject, "lock_history", Aggregate::Lock)
}

/// The user that a `q.<tenant>.user.<id>.validate` asks about.
#[must_use]
pub fn parse_query_user_validate(subject: &str) -> Option<Address> {
    user_of_query(subject, "validate")
}

/// The user that a `q.<tenant>.user.<id>.state` asks for.
#[must_use]
pub fn parse_query_user_state(subject: &str) -> Option<Address> {
    user_of_query(subject, "state")
}

/// The user whose sessions a `q.<tenant>.user.<id>.sessions` asks for.
#[must_use]
pub fn parse_query_user_sessions(subject: &str) -> Option<Address> {
    user_of_query(subject, "sessions")
}

fn list_of_tenant(subject: &str, list: &str) -> Option<Token> {
    let [q, tenant, word] = split(subject)?;
    if (q, word) != ("q", list) {
        return None;
    }
    Token::new(tenant).ok()
}

fn user_of_query(subject: &str, query: &str) -> Option<Address> {
    let [q, tenant, user, id, word] = split(subject)?;
    if (q, user, word) != ("q", "user", query) {
        return None;
    }
    Address::new(tenant, Aggregate::User, id).ok()
}

fn list_of_one(subject: &str, query: &str, aggregate: Aggregate) -> Option<Address> {
    let [q, tenant, word, id] = split(subject)?;
    if (q, word) != ("q", query) {
        return None;
    }
    Address::new(tenant, aggregate, id).ok()
}
