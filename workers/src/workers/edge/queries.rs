//! The queries of NATS: each subject, with its headers and its payload, as a call of the function
//! that answers it. HTTP calls the same functions ([`super::http`]).

use brigade_contracts::{
    Aggregate, Refusal, header,
    list::ListHeaders,
    permissions::check_sender,
    query::{self, HistoryHeaders, ViewHeaders},
    subject,
    user::Validate,
};

use super::{
    ACTIVE_ORDERS, Edge, LOCK, LOCK_HISTORY, OUTCOME, USER_STATE, USER_VALIDATE, VIEW, reply::Reply,
};
use crate::runtime::Delivery;

impl Edge {
    /// Answers a query that came to the endpoint of this name, from its tenant's account.
    pub(super) async fn query(&self, endpoint: &str, query: &Delivery) -> Result<Reply, Reply> {
        query.readable().map_err(|why| Refusal::new(400, "bad_header", why))?;
        check_sender(query.subject(), query.headers())?;
        if query.is_cut() {
            return Err(header::too_large().into());
        }
        match endpoint {
            VIEW => self.query_view(query).await,
            ACTIVE_ORDERS => self.query_active_orders(query).await,
            LOCK => self.query_lock(query).await,
            LOCK_HISTORY => self.query_lock_history(query).await,
            USER_VALIDATE => self.query_user_validate(query).await,
            USER_STATE => self.query_user_state(query).await,
            _ => {
                debug_assert_eq!(endpoint, OUTCOME);
                self.query_outcome(query).await
            }
        }
    }

    async fn query_view(&self, query: &Delivery) -> Result<Reply, Reply> {
        let expected =
            "expected q.<tenant>.view.<aggregate>.<id>, of a cart, payment, order or table";
        let address = subject::parse_query_view(query.subject())
            .filter(|address| address.aggregate != Aggregate::User)
            .ok_or_else(|| Reply::bad_subject(expected))?;
        self.view(&address, &ViewHeaders::parse(query.headers())?).await
    }

    async fn query_outcome(&self, query: &Delivery) -> Result<Reply, Reply> {
        let (tenant, id) = subject::parse_query_outcome(query.subject())
            .ok_or_else(|| Reply::bad_subject("expected q.<tenant>.outcome.<command_id>"))?;
        self.outcome(tenant, id, query::wait(query.headers())?, None).await
    }

    async fn query_active_orders(&self, query: &Delivery) -> Result<Reply, Reply> {
        let tenant = subject::parse_query_active_orders(query.subject())
            .ok_or_else(|| Reply::bad_subject("expected q.<tenant>.active_orders"))?;
        self.active_orders(tenant, &ListHeaders::parse(query.headers())?).await
    }

    async fn query_lock(&self, query: &Delivery) -> Result<Reply, Reply> {
        let lock = subject::parse_query_lock(query.subject())
            .ok_or_else(|| Reply::bad_subject("expected q.<tenant>.lock.<owner>"))?;
        self.lock(lock).await
    }

    async fn query_lock_history(&self, query: &Delivery) -> Result<Reply, Reply> {
        let lock = subject::parse_query_lock_history(query.subject())
            .ok_or_else(|| Reply::bad_subject("expected q.<tenant>.lock_history.<owner>"))?;
        self.lock_history(lock, HistoryHeaders::parse(query.headers())?).await
    }

    async fn query_user_validate(&self, query: &Delivery) -> Result<Reply, Reply> {
        let user = subject::parse_query_user_validate(query.subject())
            .ok_or_else(|| Reply::bad_subject("expected q.<tenant>.user.<id>.validate"))?;
        self.user_validate(user, &Validate::decode(query.payload())?).await
    }

    async fn query_user_state(&self, query: &Delivery) -> Result<Reply, Reply> {
        let user = subject::parse_query_user_state(query.subject())
            .ok_or_else(|| Reply::bad_subject("expected q.<tenant>.user.<id>.state"))?;
        self.user_state(user).await
    }
}
