//! The queries of NATS: subject, headers and payload, read as a [`Query`].

use brigade_contracts::{
    Address, Aggregate, CommandKey, IdSpace, Refusal, Token,
    day_close::DayCloseRange,
    header,
    list::ListHeaders,
    page::{self as pages, Day, PageHeaders},
    permissions::check_sender,
    query::{self, HistoryHeaders, ProductsHeaders, ViewHeaders},
    subject,
    user::Validate,
};

use crate::{
    runtime::Delivery,
    workers::edge::{
        endpoint::Endpoint,
        query::{Query, QueryReply, pages::PagedList},
    },
};

/// Reads the query of a message that came to an endpoint, from the account of its tenant.
///
/// # Errors
/// `400 bad_header`, `403 wrong_tenant`, `413 headers_too_large`, and those of [`parse_parts`].
pub fn parse(endpoint: Endpoint, message: &Delivery) -> Result<Query, QueryReply> {
    message.readable().map_err(|why| Refusal::new(400, "bad_header", why))?;
    check_sender(message.subject(), message.headers())?;
    if message.is_cut() {
        return Err(header::too_large().into());
    }
    parse_parts(endpoint, message.subject(), message.headers(), message.payload())
}

/// Reads the query of an endpoint.
///
/// # Errors
/// `400 bad_subject` or `bad_header`, or what is wrong with the payload.
fn parse_parts<'a>(
    endpoint: Endpoint,
    subject: &str,
    headers: impl Iterator<Item = (&'a str, &'a str)> + Clone,
    payload: &[u8],
) -> Result<Query, QueryReply> {
    let bad_subject = || QueryReply::bad_subject(expected_subject(endpoint));
    let tenant = |parse: fn(&str) -> Option<Token>| parse(subject).ok_or_else(bad_subject);
    let address = |parse: fn(&str) -> Option<Address>| parse(subject).ok_or_else(bad_subject);
    let page = |tenant, list| {
        Ok::<_, QueryReply>(Query::Page(tenant, list, PageHeaders::parse(headers.clone())?))
    };
    let of_user = |user: Address, list: fn(Token) -> PagedList| page(user.tenant, list(user.id));
    Ok(match endpoint {
        Endpoint::View => Query::View(address(viewed)?, ViewHeaders::parse(headers)?),
        Endpoint::Outcome => {
            let (tenant, id) = subject::parse_query_outcome(subject).ok_or_else(bad_subject)?;
            let command = CommandKey { space: IdSpace::Nats, id };
            Query::Outcome { tenant, command, wait: query::wait(headers)? }
        }
        Endpoint::ActiveOrders => {
            let tenant = tenant(subject::parse_query_active_orders)?;
            Query::ActiveOrders(tenant, ListHeaders::parse(headers)?)
        }
        Endpoint::Products => {
            let tenant = tenant(subject::parse_query_products)?;
            Query::Products(tenant, ProductsHeaders::parse(headers)?)
        }
        Endpoint::DayClose => {
            let tenant = tenant(subject::parse_query_day_close)?;
            Query::DayClose(tenant, DayCloseRange::parse(headers)?)
        }
        Endpoint::Tables => page(tenant(subject::parse_query_tables)?, PagedList::Tables)?,
        Endpoint::Carts => of_user(address(subject::parse_query_carts)?, PagedList::Carts)?,
        Endpoint::Orders => of_user(address(subject::parse_query_orders)?, PagedList::Orders)?,
        Endpoint::EndedOrders => {
            let tenant = tenant(subject::parse_query_ended_orders)?;
            page(tenant, PagedList::EndedOrders(Day::of(headers.clone())?))?
        }
        Endpoint::RefundTasks => {
            let tenant = tenant(subject::parse_query_refund_tasks)?;
            page(tenant, PagedList::RefundTasks(pages::payment(headers.clone())?))?
        }
        Endpoint::UnknownPayments => {
            page(tenant(subject::parse_query_unknown_payments)?, PagedList::UnknownPayments)?
        }
        Endpoint::Lock => Query::Lock(address(subject::parse_query_lock)?),
        Endpoint::LockHistory => {
            let lock = address(subject::parse_query_lock_history)?;
            Query::LockHistory(lock, HistoryHeaders::parse(headers)?)
        }
        Endpoint::UserValidate => {
            let user = address(subject::parse_query_user_validate)?;
            Query::UserValidate(user, Validate::decode(payload)?)
        }
        Endpoint::UserState => Query::UserState(address(subject::parse_query_user_state)?),
        Endpoint::UserSessions => Query::UserSessions(address(subject::parse_query_user_sessions)?),
    })
}

/// Returns the address of a view; users have none, but a state.
fn viewed(subject: &str) -> Option<Address> {
    subject::parse_query_view(subject).filter(|address| address.aggregate != Aggregate::User)
}

/// Returns the message for a subject that is not one of the endpoint.
fn expected_subject(endpoint: Endpoint) -> &'static str {
    match endpoint {
        Endpoint::View => {
            "expected q.<tenant>.view.<aggregate>.<id>, of a cart, payment, order, table or product"
        }
        Endpoint::Outcome => "expected q.<tenant>.outcome.<command_id>",
        Endpoint::ActiveOrders => "expected q.<tenant>.active_orders",
        Endpoint::Products => "expected q.<tenant>.products",
        Endpoint::DayClose => "expected q.<tenant>.day_close",
        Endpoint::Tables => "expected q.<tenant>.tables",
        Endpoint::Carts => "expected q.<tenant>.carts.<user>",
        Endpoint::Orders => "expected q.<tenant>.orders.<user>",
        Endpoint::EndedOrders => "expected q.<tenant>.ended_orders",
        Endpoint::RefundTasks => "expected q.<tenant>.refund_tasks",
        Endpoint::UnknownPayments => "expected q.<tenant>.unknown_payments",
        Endpoint::Lock => "expected q.<tenant>.lock.<owner>",
        Endpoint::LockHistory => "expected q.<tenant>.lock_history.<owner>",
        Endpoint::UserValidate => "expected q.<tenant>.user.<id>.validate",
        Endpoint::UserState => "expected q.<tenant>.user.<id>.state",
        Endpoint::UserSessions => "expected q.<tenant>.user.<id>.sessions",
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use brigade_contracts::{Address, Token, query::ProductsPage};

    use super::*;

    fn read(
        endpoint: Endpoint,
        subject: &str,
        headers: &[(&str, &str)],
    ) -> Result<Query, (u16, String)> {
        let parsed = parse_parts(endpoint, subject, headers.iter().copied(), b"");
        parsed.map_err(|reply| (reply.status, reply.error.unwrap_or_default().into_owned()))
    }

    #[test]
    fn each_endpoint_reads_its_queries() {
        let token = |text| Token::new(text).expect("a token");
        let address = |aggregate, id| Address::new("t1", aggregate, id).expect("tokens");
        let min_version = ViewHeaders { min_version: Some(7.into()), ..ViewHeaders::default() };
        let outcome = Query::Outcome {
            tenant: token("t1"),
            command: CommandKey { space: IdSpace::Nats, id: token("k1") },
            wait: Duration::from_millis(5),
        };
        let history = HistoryHeaders { limit: 2, before: None };
        let of_ada = |aggregate| address(aggregate, "ada");
        type Case<'a> = (Endpoint, &'a str, &'a [(&'a str, &'a str)], Query);
        let page = ProductsPage { limit: 20, after: Some(token("P-1")) };
        let products = ProductsHeaders { if_none_match: None, page };
        let page = |list| Query::Page(token("t1"), list, PageHeaders::default());
        let day = PagedList::EndedOrders(Day::parse("2026-01-02"));
        let cases: [Case; 15] = [
            (Endpoint::Tables, "q.t1.tables", &[], page(PagedList::Tables)),
            (Endpoint::Carts, "q.t1.carts.ada", &[], page(PagedList::Carts(token("ada")))),
            (Endpoint::Orders, "q.t1.orders.ada", &[], page(PagedList::Orders(token("ada")))),
            (Endpoint::EndedOrders, "q.t1.ended_orders", &[("Day", "2026-01-02")], page(day)),
            (
                Endpoint::RefundTasks,
                "q.t1.refund_tasks",
                &[("Payment", "p1")],
                page(PagedList::RefundTasks(Some(token("p1")))),
            ),
            (
                Endpoint::UnknownPayments,
                "q.t1.unknown_payments",
                &[],
                page(PagedList::UnknownPayments),
            ),
            (
                Endpoint::View,
                "q.t1.view.cart.c1",
                &[("Min-Version", "7")],
                Query::View(address(Aggregate::Cart, "c1"), min_version),
            ),
            (Endpoint::Outcome, "q.t1.outcome.k1", &[("Wait-Ms", "5")], outcome),
            (
                Endpoint::ActiveOrders,
                "q.t1.active_orders",
                &[],
                Query::ActiveOrders(token("t1"), ListHeaders::default()),
            ),
            (
                Endpoint::Products,
                "q.t1.products",
                &[("Limit", "20"), ("After", "P-1")],
                Query::Products(token("t1"), products),
            ),
            (
                Endpoint::DayClose,
                "q.t1.day_close",
                &[],
                Query::DayClose(token("t1"), DayCloseRange::default()),
            ),
            (Endpoint::Lock, "q.t1.lock.ada", &[], Query::Lock(of_ada(Aggregate::Lock))),
            (
                Endpoint::LockHistory,
                "q.t1.lock_history.ada",
                &[("Limit", "2")],
                Query::LockHistory(of_ada(Aggregate::Lock), history),
            ),
            (
                Endpoint::UserState,
                "q.t1.user.ada.state",
                &[],
                Query::UserState(of_ada(Aggregate::User)),
            ),
            (
                Endpoint::UserSessions,
                "q.t1.user.ada.sessions",
                &[],
                Query::UserSessions(of_ada(Aggregate::User)),
            ),
        ];
        for (endpoint, subject, headers, expected) in cases {
            assert_eq!(read(endpoint, subject, headers), Ok(expected), "{subject}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_refused() {
        let bad_subject = Err((400, "bad_subject".to_owned()));
        for endpoint in Endpoint::ALL {
            for subject in ["q.t1.x", "q.t1.view.user.ada", "q..active_orders"] {
                assert_eq!(read(endpoint, subject, &[]), bad_subject, "{endpoint:?} {subject}");
            }
        }
        let bad_header = Err((400, "bad_header".to_owned()));
        let headers = [("Min-Version", "x")];
        assert_eq!(read(Endpoint::View, "q.t1.view.cart.c1", &headers), bad_header);
        let no_token = read(Endpoint::UserValidate, "q.t1.user.ada.validate", &[]);
        assert!(matches!(no_token, Err((400, _))), "{no_token:?}");
    }
}
