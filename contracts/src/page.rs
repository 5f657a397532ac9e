//! Lists that are read page by page from SQL: their headers, their rows and the shape of a page.
//!
//! A page goes on behind a place that the page before it named. The rows are in an order that a row
//! keeps as long as it stands in the list, so whoever reads page after page meets each row that
//! stands there the whole time once.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    Currency, IfNoneMatch, MAX_NAME, MAX_NOTE, Money, Quantity, Refusal, Text, Timestamp, Token,
    cart,
    header::{AFTER, DAY, IF_NONE_MATCH, LIMIT, PAYMENT, bad, number, once},
    order,
    payment::{Method, RefundReason, Target},
    table::{self, OpenTurnShown},
};

/// Rows in one page, where nobody asks for less or more.
pub const PAGE_LIMIT: u16 = 100;
/// Most rows in one page.
pub const MAX_PAGE_LIMIT: u16 = 500;

/// The headers of a list, each at most once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageHeaders {
    pub if_none_match: Option<IfNoneMatch>,
    /// From 1 to [`MAX_PAGE_LIMIT`].
    pub limit: u16,
    /// The `next` of the page before. Whether it is one of this list, edge knows.
    pub after: Option<String>,
}

impl PageHeaders {
    /// # Errors
    /// `400 bad_header` for one that is repeated or malformed. Unknown headers are left alone.
    pub fn parse<'a>(
        headers: impl Iterator<Item = (&'a str, &'a str)> + Clone,
    ) -> Result<Self, Refusal> {
        let one = |name| once(headers.clone(), name);
        let limit = one(LIMIT)?.map(|value| number(LIMIT, value)).transpose()?;
        let limit = limit.map_or(Ok(PAGE_LIMIT), u16::try_from);
        let limit = limit.ok().filter(|limit| (1..=MAX_PAGE_LIMIT).contains(limit));
        Ok(Self {
            if_none_match: one(IF_NONE_MATCH)?.map(IfNoneMatch::parse).transpose()?,
            limit: limit.ok_or_else(|| bad(LIMIT))?,
            after: one(AFTER)?.map(str::to_owned),
        })
    }
}

impl Default for PageHeaders {
    fn default() -> Self {
        Self { if_none_match: None, limit: PAGE_LIMIT, after: None }
    }
}

/// A day, from its first instant to the first one of the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Day {
    pub from: Timestamp,
    pub until: Timestamp,
}

impl Day {
    /// Reads a date with or without a zone, as XML Schema has it: `2026-01-02`, `2026-01-02+02:00`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (date, zone) = text.split_at_checked(10)?;
        let zone = if zone.is_empty() { "Z" } else { zone };
        let from = Timestamp::parse(&format!("{date}T00:00:00{zone}")).ok()?;
        Some(Self { from, until: from.plus(Duration::from_secs(24 * 60 * 60)) })
    }

    /// Reads the header `Day`; none: every day.
    ///
    /// # Errors
    /// `400 bad_header` for one that is repeated or malformed.
    pub fn of<'a>(
        headers: impl Iterator<Item = (&'a str, &'a str)>,
    ) -> Result<Option<Self>, Refusal> {
        once(headers, DAY)?.map(|text| Self::parse(text).ok_or_else(|| bad(DAY))).transpose()
    }
}

/// Reads the header `Payment`, of the list of refund tasks; none: those of all payments.
///
/// # Errors
/// `400 bad_header` for one that is repeated or no Token.
pub fn payment<'a>(
    headers: impl Iterator<Item = (&'a str, &'a str)>,
) -> Result<Option<Token>, Refusal> {
    let payment = once(headers, PAYMENT)?;
    payment.map(|id| Token::new(id).map_err(|_| bad(PAYMENT))).transpose()
}

/// A page of a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Page<T> {
    pub rows: Vec<T>,
    /// The header `After` of the next page; null: there are no more.
    pub next: Option<String>,
}

/// A row of `q.<tenant>.tables`, by table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "ListedTable")]
pub struct TableRow {
    pub table: Token,
    pub version: u64,
    pub at: Timestamp,
    pub label: Text<MAX_NAME>,
    pub seats: Quantity,
    pub status: table::Status,
    pub open_turn: Option<OpenTurnShown>,
}

/// A row of `q.<tenant>.carts.<user>`, by cart: one that is open.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "ListedCart")]
pub struct CartRow {
    pub cart: Token,
    pub version: u64,
    pub at: Timestamp,
    pub kind: cart::Kind,
    pub owner: Token,
    pub currency: Currency,
    /// The number of its items.
    pub items: u16,
    pub total: Money,
    pub paid: Money,
    pub locked_until: Option<Timestamp>,
}

/// A row of `q.<tenant>.orders.<user>` and of `q.<tenant>.ended_orders`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "ListedOrder")]
pub struct OrderRow {
    pub order: Token,
    pub version: u64,
    pub status: order::Status,
    pub currency: Currency,
    pub cart_id: Option<Token>,
    pub table_id: Option<Token>,
    pub turn_id: Option<Token>,
    /// The number of its items.
    pub items: u16,
    pub total: Money,
    pub paid: Money,
    pub refunded: Money,
    pub created_at: Timestamp,
    pub paid_at: Option<Timestamp>,
    /// The time at which it was completed or cancelled, or of a later change of its money.
    pub ended_at: Option<Timestamp>,
    /// The reason why it was cancelled.
    pub reason: Option<Text<MAX_NOTE>>,
}

/// A row of `q.<tenant>.refund_tasks`, by task: money that is owed back and has not gone back yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "ListedRefundTask")]
pub struct RefundTaskRow {
    /// `<payment>.<n>`, n from 1.
    pub task: String,
    pub payment: Token,
    pub target: Target,
    pub method: Method,
    pub amount: Money,
    pub currency: Currency,
    pub reason: RefundReason,
    /// The amount of it that has gone back.
    pub refunded: Money,
    /// The amount of `refunded` that a person settled.
    pub settled: Money,
    pub requested_at: Timestamp,
}

/// A row of `q.<tenant>.unknown_payments`, by payment: one whose result the gateway does not know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "ListedPayment")]
pub struct UnknownPaymentRow {
    pub payment: Token,
    pub version: u64,
    pub at: Timestamp,
    /// The time at which the gateway said so first; a function of the release before does not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unknown_since: Option<Timestamp>,
    pub target: Target,
    pub user: Option<Token>,
    pub method: Method,
    pub amount: Money,
    pub currency: Currency,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_asked_for_in_pages() {
        let parse = |headers: &[(&str, &str)]| PageHeaders::parse(headers.iter().copied());
        assert_eq!(parse(&[("X-Other", "x")]).unwrap(), PageHeaders::default());
        let page = parse(&[("limit", "500"), ("AFTER", "what?"), ("If-None-Match", "\"7f\"")]);
        let page = page.unwrap();
        assert_eq!((page.limit, page.after.as_deref()), (500, Some("what?")));
        assert!(page.if_none_match.is_some_and(|known| known.has_tag("7f")));
        let bad: &[&[(&str, &str)]] = &[
            &[("Limit", "0")],
            &[("Limit", "501")],
            &[("Limit", "65537")],
            &[("Limit", "5"), ("limit", "5")],
            &[("After", "a"), ("after", "a")],
            &[("If-None-Match", "7f")],
        ];
        for headers in bad {
            assert_eq!(parse(headers).unwrap_err().code, "bad_header", "{headers:?}");
        }
    }

    #[test]
    fn a_day_begins_where_its_zone_says() {
        let bounds =
            |text: &str| Day::parse(text).map(|day| (day.from.to_string(), day.until.to_string()));
        let day = |from: &str, until: &str| Some((from.to_owned(), until.to_owned()));
        let utc = day("2026-01-02T00:00:00.000Z", "2026-01-03T00:00:00.000Z");
        assert_eq!((bounds("2026-01-02"), bounds("2026-01-02Z")), (utc.clone(), utc));
        let east = day("2026-01-01T22:00:00.000Z", "2026-01-02T22:00:00.000Z");
        assert_eq!(bounds("2026-01-02+02:00"), east);
        assert!(bounds("9999-12-31").is_some());
        for bad in ["", "today", "2026-01-2", "2026-13-01", "2026-02-30", "2026-01-02T00:00:00Z"] {
            assert_eq!(bounds(bad), None, "{bad}");
        }
        let of = |headers: &[(&str, &str)]| Day::of(headers.iter().copied());
        assert_eq!(of(&[]), Ok(None));
        assert_eq!(of(&[("day", "2026-01-02")]), Ok(Day::parse("2026-01-02")));
        for bad in [&[("Day", "x")][..], &[("Day", "2026-01-02"), ("day", "2026-01-02")]] {
            assert_eq!(of(bad).unwrap_err().code, "bad_header");
        }
    }
}
