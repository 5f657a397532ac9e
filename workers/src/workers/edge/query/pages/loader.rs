//! The statements of these lists. All take and give the same: for each request a tenant, whose list
//! it is, the bounds in time, the place behind which the page begins, and how many rows at most; for
//! each row its place and its JSON.

use std::{collections::HashMap, mem::discriminant, sync::Arc};

use brigade_contracts::{
    Era, Timestamp,
    list::MAX_BYTES,
    page::{CartRow, OrderRow, Page, RefundTaskRow, TableRow, UnknownPaymentRow},
};
use bytes::Bytes;
use serde::{Serialize, de::DeserializeOwned};
use sha2::{Digest, Sha256};
use sqlx::PgConnection;
use time::{OffsetDateTime, macros::datetime};

use super::{PageKey, PagedList, place::PagePlace};
use crate::{store::rows::parse, workers::edge::query::loader::Loader};

/// Earlier and later than any row.
const BEGINNING: OffsetDateTime = OffsetDateTime::UNIX_EPOCH;
const END: OffsetDateTime = datetime!(9999-12-31 23:59:59 UTC);
/// The most bytes of an answer beside its rows.
const ENVELOPE: usize = 512;

/// Loads pages. Every key has a row.
pub struct PageLoader;

/// A page as it is answered.
#[derive(Debug)]
pub struct EncodedPage {
    /// The entity tag, without quotation marks.
    pub tag: String,
    /// The place behind which the next page begins, if there is one.
    pub next: Option<String>,
    /// JSON of the shape [`Page`].
    pub body: Bytes,
}

/// A row of any list, as a statement gives it.
struct StoredRow {
    /// The number of the request, from 1.
    place: i64,
    at: OffsetDateTime,
    id: String,
    row: String,
}

/// The columns of the requests of one statement.
#[derive(Default)]
struct PageColumns<'a> {
    tenants: Vec<&'a str>,
    whose: Vec<&'a str>,
    since: Vec<OffsetDateTime>,
    before: Vec<OffsetDateTime>,
    after: Vec<&'a str>,
    limits: Vec<i64>,
}

impl Loader for PageLoader {
    type Key = PageKey;
    type Row = Arc<EncodedPage>;
    const CONCURRENCY: usize = 2;
    /// Each may have 500 rows.
    const MAX_KEYS: usize = 16;

    async fn load(
        &self,
        connection: &mut PgConnection,
        era: Era,
        keys: &[PageKey],
    ) -> sqlx::Result<HashMap<PageKey, Arc<EncodedPage>>> {
        let mut pages = HashMap::with_capacity(keys.len());
        let mut left: Vec<&PageKey> = keys.iter().collect();
        // One statement for each kind of list that is asked for.
        while let Some(kind) = left.first().map(|key| discriminant(&key.list)) {
            let (same, others): (Vec<_>, Vec<_>) =
                left.into_iter().partition(|key| discriminant(&key.list) == kind);
            left = others;
            load_kind(connection, era, &same, &mut pages).await?;
        }
        Ok(pages)
    }
}

/// Loads pages of lists of one kind.
async fn load_kind(
    connection: &mut PgConnection,
    era: Era,
    keys: &[&PageKey],
    pages: &mut HashMap<PageKey, Arc<EncodedPage>>,
) -> sqlx::Result<()> {
    let Some(first) = keys.first() else { return Ok(()) };
    let rows = read(connection, era, &first.list, &PageColumns::new(keys)).await?;
    let mut rest = &rows[..];
    for (place, key) in (1..).zip(keys) {
        let count = rest.iter().take_while(|row| row.place == place).count();
        let (own, others) = rest.split_at(count);
        rest = others;
        pages.insert((*key).clone(), Arc::new(encode(key, own)?));
    }
    Ok(())
}

/// Calls the function of a kind of list. The rows are sorted by request, and as the list is.
async fn read(
    connection: &mut PgConnection,
    era: Era,
    list: &PagedList,
    columns: &PageColumns<'_>,
) -> sqlx::Result<Vec<StoredRow>> {
    let PageColumns { tenants, whose, since, before, after, limits } = columns;
    macro_rules! rows {
        ($function:literal) => {
            sqlx::query_as!(
                StoredRow,
                r#"select place as "place!", at as "at!", id as "id!", "row" as "row!"
                   from brigade."#
                    + $function
                    + "($1, $2, $3, $4, $5, $6, $7)",
                era.as_sql(),
                tenants as _,
                whose as _,
                since,
                before,
                after as _,
                limits,
            )
            .fetch_all(connection)
            .await
        };
    }
    match list {
        PagedList::Tables => rows!("read_table_pages"),
        PagedList::Carts(_) => rows!("read_cart_pages"),
        PagedList::Orders(_) => rows!("read_order_pages"),
        PagedList::EndedOrders(_) => rows!("read_ended_order_pages"),
        PagedList::RefundTasks(_) => rows!("read_refund_task_pages"),
        PagedList::UnknownPayments => rows!("read_unknown_payment_pages"),
    }
}

impl<'a> PageColumns<'a> {
    fn new(keys: &[&'a PageKey]) -> Self {
        let mut columns = Self::default();
        for PageKey { tenant, list, after, limit } in keys {
            let (whose, since, end) = match list {
                PagedList::Carts(user) | PagedList::Orders(user) => (user.as_str(), BEGINNING, END),
                PagedList::RefundTasks(Some(payment)) => (payment.as_str(), BEGINNING, END),
                PagedList::EndedOrders(Some(day)) => ("", day.from.inner(), day.until.inner()),
                _ => ("", BEGINNING, END),
            };
            // A place on a later day is before the first order of this one.
            let after = after.as_ref().map(|place| (time_of(place.at), place.id.as_str()));
            let (before, after) = after.filter(|(at, _)| *at < end).unwrap_or((end, ""));
            columns.tenants.push(tenant.as_str());
            columns.whose.push(whose);
            columns.since.push(since);
            columns.before.push(before);
            columns.after.push(after);
            // One more tells that there is a next page.
            columns.limits.push(i64::from(*limit) + 1);
        }
        columns
    }
}

/// Converts the time of a place. One that was not given is of no use, whatever it becomes.
fn time_of(millis: i64) -> OffsetDateTime {
    let nanos = i128::from(millis) * 1_000_000;
    OffsetDateTime::from_unix_timestamp_nanos(nanos).unwrap_or(END)
}

fn encode(key: &PageKey, rows: &[StoredRow]) -> sqlx::Result<EncodedPage> {
    match key.list {
        PagedList::Tables => encode_rows::<TableRow>(key, rows),
        PagedList::Carts(_) => encode_rows::<CartRow>(key, rows),
        PagedList::Orders(_) | PagedList::EndedOrders(_) => encode_rows::<OrderRow>(key, rows),
        PagedList::RefundTasks(_) => encode_rows::<RefundTaskRow>(key, rows),
        PagedList::UnknownPayments => encode_rows::<UnknownPaymentRow>(key, rows),
    }
}

/// Encodes as many rows as were asked for and find room in a message.
fn encode_rows<T: Serialize + DeserializeOwned>(
    key: &PageKey,
    rows: &[StoredRow],
) -> sqlx::Result<EncodedPage> {
    let mut bytes = ENVELOPE;
    let fits = |row: &&StoredRow| {
        // SQL writes no fewer bytes than are answered.
        bytes += row.row.len() + 1;
        bytes <= MAX_BYTES
    };
    let shown: Vec<_> = rows.iter().take(key.limit.into()).take_while(fits).collect();
    let last = shown.last().filter(|_| shown.len() < rows.len());
    let next = last.map(|row| {
        let at = Timestamp::from(row.at).inner();
        let at = at.unix_timestamp() * 1000 + i64::from(at.millisecond());
        PagePlace { at, id: row.id.clone() }.to_word(&key.list)
    });
    let rows = shown.iter().map(|row| parse::<T>(&row.row)).collect::<Result<_, _>>()?;
    let body = serde_json::to_vec(&Page { rows, next: next.clone() });
    let body = body.map_err(|error| sqlx::Error::Decode(error.into()))?;
    let tag = hex::encode(&Sha256::digest(&body)[..16]);
    Ok(EncodedPage { tag, next, body: body.into() })
}

#[cfg(test)]
mod tests {
    use brigade_contracts::Token;
    use serde_json::Value;

    use super::*;

    fn key(limit: u16) -> PageKey {
        let tenant = Token::new("t1").expect("a token");
        PageKey { tenant, list: PagedList::Tables, after: None, limit }
    }

    fn rows(count: usize, label: &str) -> Vec<StoredRow> {
        let row = |n: usize| StoredRow {
            place: 1,
            at: BEGINNING,
            id: format!("tb{n}"),
            row: format!(
                r#"{{"table" : "tb{n}", "version" : 1, "at" : "2026-01-02T03:04:05.678+00:00",
                    "label" : "{label}", "seats" : 4, "status" : "available", "open_turn" : null}}"#
            ),
        };
        (0..count).map(row).collect()
    }

    fn shown(page: &EncodedPage) -> (usize, Option<String>) {
        let body: Value = serde_json::from_slice(&page.body).expect("JSON");
        let next = body["next"].as_str().map(str::to_owned);
        assert_eq!(next, page.next);
        (body["rows"].as_array().expect("rows").len(), next)
    }

    #[test]
    fn a_page_says_where_the_next_one_begins() {
        let page = |count, limit| shown(&encode(&key(limit), &rows(count, "x")).expect("a page"));
        assert_eq!(page(3, 2), (2, Some("t1.0.tb1".to_owned())));
        assert_eq!(page(2, 2), (2, None));
        assert_eq!(page(0, 2), (0, None));
    }

    #[test]
    fn what_finds_no_room_in_a_message_is_on_the_next_page() {
        let rows = rows(1001, &"\u{1f372}".repeat(200));
        let page = encode(&key(1000), &rows).expect("a page");
        let (count, next) = shown(&page);
        assert!(count > 500 && page.body.len() <= MAX_BYTES, "{count}");
        assert_eq!(next, Some(format!("t1.0.tb{}", count - 1)));
    }

    #[test]
    fn an_etag_names_one_body() {
        let tag = |label| encode(&key(2), &rows(3, label)).expect("a page").tag;
        assert_eq!(tag("x"), tag("x"));
        assert_ne!(tag("x"), tag("y"));
    }
}
