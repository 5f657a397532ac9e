//! Queries of lists that are read from SQL page by page: tables, the carts and the orders of a user,
//! orders that have ended, money that is owed back, payments without a result.
//!
//! Each page is one statement for all who wait, which reads by an index at most one row more than the
//! page has, and always of one tenant. What it reads is answered, so no page is ever stale; the ETag
//! is a digest of the body. Rows are in an order that a row keeps while it stands in the list: so
//! whoever reads page after page meets each row that stays as it is once ([`place`]).

mod loader;
pub mod place;

use std::sync::Arc;

use brigade_contracts::{
    Token,
    page::{Day, PageHeaders},
};

pub use self::loader::PageLoader;
use self::place::PagePlace;
use super::{batch_loader::BatchLoader, database::ReadDatabase, reply::QueryReply};
use crate::runtime::consume::HasTenant;

/// A list of a tenant.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum PagedList {
    /// All tables, by id.
    Tables,
    /// The open carts of a user, by id.
    Carts(Token),
    /// The orders of a user, the newest first.
    Orders(Token),
    /// The orders that have ended, on a day or on all, the last one first.
    EndedOrders(Option<Day>),
    /// Refund tasks that are open, of a payment or of all, by id.
    RefundTasks(Option<Token>),
    /// Payments whose result is unknown, by id.
    UnknownPayments,
}

/// A page of a list.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PageKey {
    pub tenant: Token,
    pub list: PagedList,
    /// The place behind which the page begins; `None` for the first one.
    pub after: Option<PagePlace>,
    /// The number of rows at most.
    pub limit: u16,
}

impl HasTenant for PageKey {
    fn tenant(&self) -> &str {
        self.tenant.as_str()
    }
}

/// Answers queries of these lists.
pub struct Pages {
    pages: BatchLoader<PageLoader>,
}

impl Pages {
    /// Reads lists from this database.
    #[must_use]
    pub fn new(database: &Arc<ReadDatabase>) -> Self {
        Self { pages: BatchLoader::new(database, PageLoader) }
    }

    /// Returns a page of a list, or `304` if the client has it.
    ///
    /// # Errors
    /// `400 bad_header` for a page that no answer has named; `503 unconfirmed`.
    pub async fn get(
        &self,
        tenant: Token,
        list: PagedList,
        headers: &PageHeaders,
    ) -> Result<QueryReply, QueryReply> {
        let after =
            headers.after.as_deref().map(|text| PagePlace::parse(text, &list)).transpose()?;
        let key = PageKey { tenant, list, after, limit: headers.limit };
        let page = self.pages.load(key).await?.ok_or_else(QueryReply::unconfirmed)?;
        let etag = format!("\"{}\"", page.tag);
        if headers.if_none_match.as_ref().is_some_and(|known| known.has_tag(&page.tag)) {
            return Ok(QueryReply::not_modified(etag));
        }
        let next = page.next.clone();
        Ok(QueryReply { etag: Some(etag), next, ..QueryReply::ok(page.body.clone()) })
    }
}
