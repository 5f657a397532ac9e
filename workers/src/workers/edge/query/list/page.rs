//! Pages: the place behind which one begins, and what is answered.
//!
//! A place is that of an order, which never changes: the time at which it was created, and its id.
//! With it goes the moment of the first page, so that the last one can name it: what changed since
//! then is all that a reader of the pages may have missed.

use std::{fmt, sync::Arc};

use brigade_contracts::{
    Refusal, Token,
    header::{AFTER, bad},
    list::List,
};
use bytes::Bytes;

use super::{position::ListPosition, row::ListRow, snapshot::SnapshotOrder};
use crate::{runtime::consume::HasTenant, workers::edge::query::reply::QueryReply};

/// The place of an order in the list.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ListPlace {
    /// In milliseconds of the Unix time.
    pub created_at: i64,
    pub order: Token,
}

/// The beginning of a page that is not the first one. Clients see one opaque word; any edge
/// understands it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageStart {
    /// The position that the first page would have, if it were the whole list.
    pub first: ListPosition,
    /// The last order of the page before.
    pub place: ListPlace,
}

/// The orders of a tenant that are read together.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ListKey {
    pub tenant: Token,
    /// The place behind which they begin; `None` for the newest ones.
    pub after: Option<ListPlace>,
    /// The number of orders at most.
    pub limit: u16,
}

/// A page as it is answered.
pub struct ListPage {
    pub position: ListPosition,
    /// The beginning of the next page, if there is one.
    pub next: Option<String>,
    /// JSON of the shape [`List`].
    pub body: Bytes,
}

impl PageStart {
    /// Reads the beginning of a page of this tenant's list.
    ///
    /// # Errors
    /// `400 bad_header` if no page of this tenant has named it.
    pub fn parse(text: &str, tenant: &Token) -> Result<Self, Refusal> {
        let start = Self::read(text).filter(|start| start.first.tenant == *tenant);
        start.ok_or_else(|| bad(AFTER))
    }

    fn read(text: &str) -> Option<Self> {
        let mut words = text.rsplitn(3, '.');
        let order = Token::new(words.next()?).ok()?;
        let created_at = i64::from_str_radix(words.next()?, 16).ok().filter(|at| *at >= 0)?;
        let first = ListPosition::parse(words.next()?).filter(|first| first.whole)?;
        Some(Self { first, place: ListPlace { created_at, order } })
    }
}

impl fmt::Display for PageStart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { first, place: ListPlace { created_at, order } } = self;
        write!(f, "{first}.{created_at:x}.{order}")
    }
}

impl HasTenant for ListKey {
    fn tenant(&self) -> &str {
        self.tenant.as_str()
    }
}

impl ListPage {
    /// Returns a page with these rows. `last` is the order behind which the next page begins, if
    /// there is one.
    #[must_use]
    pub fn new(
        first: &ListPosition,
        rows: &[Arc<ListRow>],
        last: Option<&SnapshotOrder>,
        reset: bool,
    ) -> Self {
        let next =
            last.map(|last| PageStart { first: first.clone(), place: last.place() }.to_string());
        let position = ListPosition { whole: next.is_none(), ..first.clone() };
        let resume = position.to_string();
        let rows = rows.iter().map(|row| &*row.text).collect();
        let (next_word, more) = (next.as_deref(), next.is_some());
        let list = List { reset, rows, more, next: next_word, resume: &resume };
        let body = QueryReply::json(&list).body;
        Self { position, next, body }
    }
}

/// Returns the order of the last row.
pub fn last_of<'a>(
    orders: &'a [SnapshotOrder],
    rows: &[Arc<ListRow>],
) -> Option<&'a SnapshotOrder> {
    let last = rows.last()?;
    orders.iter().find(|order| order.order == last.order)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::workers::edge::query::list::snapshot::ListMoment;

    fn token(text: &str) -> Token {
        Token::new(text).expect("a token")
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_by_its_tenant_alone(
            tenant in "[A-Za-z0-9_-]{1,64}",
            order in "[A-Za-z0-9_-]{1,64}",
            numbers in prop::array::uniform4(0..i64::MAX),
        ) {
            let [start, xid, at, created_at] = numbers;
            let moment = ListMoment { start, xid, at };
            let first = ListPosition { tenant: token(&tenant), moment, whole: true };
            let place = ListPlace { created_at, order: token(&order) };
            let page = PageStart { first, place };
            let text = page.to_string();
            prop_assert!(text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b)));
            prop_assert_eq!(PageStart::parse(&text, &token(&tenant)), Ok(page));
            let others = token(&format!("{}x", &tenant[..tenant.len().min(63)]));
            let refused = PageStart::parse(&text, &others).map_err(|refusal| refusal.status);
            if others.as_str() != tenant {
                prop_assert_eq!(refused, Err(400));
            }
        }

        #[test]
        fn anything_is_borne(text in "\\PC{0,80}", tail in "[a-z0-9.-]{0,40}") {
            for text in [text, format!("a1.t1.{tail}"), format!("a1.t1.7.8.9.w.{tail}")] {
                let _borne = PageStart::parse(&text, &token("t1"));
            }
        }
    }

    #[test]
    fn what_is_no_beginning_of_a_page_is_refused() {
        let read = |text| PageStart::parse(text, &token("t1")).map_err(|refusal| refusal.code);
        assert!(read("a1.t1.7.8.9.w.5.o1").is_ok());
        let bad = [
            "",
            "a1.t1.7.8.9.w",
            "a1.t1.7.8.9.w.5",
            "a1.t1.7.8.9.p.5.o1",
            "a1.t1.7.8.9.w.-5.o1",
            "a1.t1.7.8.9.w.x.o1",
            "a1.t1.7.8.9.w.5.",
            "a1.t2.7.8.9.w.5.o1",
            "a2.t1.7.8.9.w.5.o1",
        ];
        for bad in bad {
            assert_eq!(read(bad), Err("bad_header".into()), "{bad}");
        }
    }
}
