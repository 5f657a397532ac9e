//! The endpoints of edge: one for each kind of query that is answered over NATS.

use brigade_contracts::subject::{
    QUERY_ACTIVE_ORDERS, QUERY_CARTS, QUERY_DAY_CLOSE, QUERY_ENDED_ORDERS, QUERY_LOCK,
    QUERY_LOCK_HISTORY, QUERY_ORDERS, QUERY_OUTCOME, QUERY_PRODUCTS, QUERY_REFUND_TASKS,
    QUERY_TABLES, QUERY_UNKNOWN_PAYMENTS, QUERY_USER_SESSIONS, QUERY_USER_STATE,
    QUERY_USER_VALIDATE, QUERY_VIEW,
};

/// An endpoint of the NATS service, which answers one kind of query.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Endpoint {
    View,
    Outcome,
    ActiveOrders,
    Products,
    Tables,
    Carts,
    Orders,
    EndedOrders,
    RefundTasks,
    UnknownPayments,
    DayClose,
    Lock,
    LockHistory,
    UserValidate,
    UserState,
    UserSessions,
}

impl Endpoint {
    /// All endpoints, in the order in which the service lists them.
    pub const ALL: [Self; 16] = [
        Self::View,
        Self::Outcome,
        Self::ActiveOrders,
        Self::Products,
        Self::Tables,
        Self::Carts,
        Self::Orders,
        Self::EndedOrders,
        Self::RefundTasks,
        Self::UnknownPayments,
        Self::DayClose,
        Self::Lock,
        Self::LockHistory,
        Self::UserValidate,
        Self::UserState,
        Self::UserSessions,
    ];

    /// Returns the name of the endpoint, which is also the label `query` of metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::View => "view",
            Self::Outcome => "outcome",
            Self::ActiveOrders => "active_orders",
            Self::Products => "products",
            Self::Tables => "tables",
            Self::Carts => "carts",
            Self::Orders => "orders",
            Self::EndedOrders => "ended_orders",
            Self::RefundTasks => "refund_tasks",
            Self::UnknownPayments => "unknown_payments",
            Self::DayClose => "day_close",
            Self::Lock => "lock",
            Self::LockHistory => "lock_history",
            Self::UserValidate => "user_validate",
            Self::UserState => "user_state",
            Self::UserSessions => "user_sessions",
        }
    }

    /// Returns the subject of its queries, with wildcards.
    #[must_use]
    pub fn subject(self) -> &'static str {
        match self {
            Self::View => QUERY_VIEW,
            Self::Outcome => QUERY_OUTCOME,
            Self::ActiveOrders => QUERY_ACTIVE_ORDERS,
            Self::Products => QUERY_PRODUCTS,
            Self::Tables => QUERY_TABLES,
            Self::Carts => QUERY_CARTS,
            Self::Orders => QUERY_ORDERS,
            Self::EndedOrders => QUERY_ENDED_ORDERS,
            Self::RefundTasks => QUERY_REFUND_TASKS,
            Self::UnknownPayments => QUERY_UNKNOWN_PAYMENTS,
            Self::DayClose => QUERY_DAY_CLOSE,
            Self::Lock => QUERY_LOCK,
            Self::LockHistory => QUERY_LOCK_HISTORY,
            Self::UserValidate => QUERY_USER_VALIDATE,
            Self::UserState => QUERY_USER_STATE,
            Self::UserSessions => QUERY_USER_SESSIONS,
        }
    }

    /// Returns the statuses that its responses may have in ordinary operation.
    #[must_use]
    pub fn statuses(self) -> &'static [u16] {
        match self {
            Self::View => &[200, 304, 400, 404, 413, 429, 503, 504],
            Self::ActiveOrders
            | Self::Products
            | Self::Tables
            | Self::Carts
            | Self::Orders
            | Self::EndedOrders
            | Self::RefundTasks
            | Self::UnknownPayments => &[200, 304, 400, 413, 429, 503],
            Self::LockHistory | Self::DayClose => &[200, 400, 413, 429, 503],
            Self::UserValidate => &[200, 400, 401, 413, 429, 503],
            Self::Outcome | Self::Lock | Self::UserState | Self::UserSessions => {
                &[200, 400, 404, 413, 429, 503]
            }
        }
    }

    /// Returns true if a response may have up to [`brigade_contracts::list::MAX_BYTES`] bytes.
    #[must_use]
    pub fn has_large_responses(self) -> bool {
        matches!(
            self,
            Self::ActiveOrders
                | Self::Products
                | Self::Tables
                | Self::Carts
                | Self::Orders
                | Self::EndedOrders
                | Self::RefundTasks
                | Self::UnknownPayments
                | Self::LockHistory
        )
    }
}
