//! Queries: their headers and the shapes of their answers.

use std::{borrow::Cow, time::Duration};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{
    EraVersion, IfNoneMatch, Money, Refusal, Token,
    header::{
        AFTER, BEFORE, CONFIRM, IF_NONE_MATCH, LIMIT, MIN_VERSION, WAIT_MS, bad, number, once,
        version,
    },
};

/// The longest that a query may wait, in milliseconds.
pub const MAX_WAIT_MS: u64 = 30_000;

/// The headers of `q.<tenant>.view.<aggregate>.<id>`, each at most once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ViewHeaders {
    pub if_none_match: Option<IfNoneMatch>,
    pub min_version: Option<EraVersion>,
    /// The time to wait for `min_version`.
    pub wait: Duration,
    /// `Confirm: kv`: while Postgres is away, the counters in KV will do.
    pub confirm_by_kv: bool,
}

impl ViewHeaders {
    /// # Errors
    /// `400 bad_header` for one that is repeated or malformed. Unknown headers are left alone.
    pub fn parse<'a>(
        headers: impl Iterator<Item = (&'a str, &'a str)> + Clone,
    ) -> Result<Self, Refusal> {
        let one = |name| once(headers.clone(), name);
        let confirm_by_kv = match one(CONFIRM)? {
            None => false,
            Some("kv") => true,
            Some(_) => return Err(bad(CONFIRM)),
        };
        Ok(Self {
            if_none_match: one(IF_NONE_MATCH)?.map(IfNoneMatch::parse).transpose()?,
            min_version: one(MIN_VERSION)?.map(|value| version(MIN_VERSION, value)).transpose()?,
            wait: wait(headers)?,
            confirm_by_kv,
        })
    }

    /// Returns true if the asker already has this version.
    #[must_use]
    pub fn has(&self, version: EraVersion) -> bool {
        self.if_none_match.as_ref().is_some_and(|known| known.has(version))
    }

    /// Returns true if this version is late enough for the asker. One of another era than the
    /// asker knows is: what the asker waits for was lost, and will not come. Who has the present
    /// version knows the era, and may name a number alone.
    #[must_use]
    pub fn reached(&self, version: EraVersion) -> bool {
        let is_reached = |min: EraVersion| {
            let knows_another =
                version.era != min.era && !(min.era.is_first() && self.has(version));
            knows_another || version.version >= min.version
        };
        self.min_version.is_none_or(is_reached)
    }
}

/// `Wait-Ms`, the only header of `q.<tenant>.outcome.<command_id>`; none: not at all.
///
/// # Errors
/// `400 bad_header` where it is repeated, malformed or above [`MAX_WAIT_MS`].
pub fn wait<'a>(headers: impl Iterator<Item = (&'a str, &'a str)>) -> Result<Duration, Refusal> {
    match once(headers, WAIT_MS)?.map(|value| number(WAIT_MS, value)).transpose()? {
        Some(wait) if wait > MAX_WAIT_MS => Err(bad(WAIT_MS)),
        wait => Ok(Duration::from_millis(wait.unwrap_or(0))),
    }
}

/// Entries of a lock's history in one answer, where nobody asks for less or more.
pub const HISTORY_LIMIT: u16 = 50;
/// Most entries of a lock's history in one answer.
pub const MAX_HISTORY_LIMIT: u16 = 500;

/// The headers of `q.<tenant>.lock_history.<owner>`, each at most once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct HistoryHeaders {
    /// From 1 to [`MAX_HISTORY_LIMIT`].
    pub limit: u16,
    /// Only entries before this place, which an earlier answer named.
    pub before: Option<i64>,
}

impl HistoryHeaders {
    /// # Errors
    /// `400 bad_header` for one that is repeated or malformed. Unknown headers are left alone.
    pub fn parse<'a>(
        headers: impl Iterator<Item = (&'a str, &'a str)> + Clone,
    ) -> Result<Self, Refusal> {
        let parsed =
            |name| once(headers.clone(), name)?.map(|value| number(name, value)).transpose();
        let limit = parsed(LIMIT)?.map_or(Ok(HISTORY_LIMIT), u16::try_from);
        let before = parsed(BEFORE)?.map(i64::try_from).transpose();
        let limit = limit.ok().filter(|limit| (1..=MAX_HISTORY_LIMIT).contains(limit));
        Ok(Self {
            limit: limit.ok_or_else(|| bad(LIMIT))?,
            before: before.map_err(|_| bad(BEFORE))?,
        })
    }
}

/// Products in one answer, where nobody asks for less or more.
pub const PRODUCTS_LIMIT: u16 = 200;
/// Most products in one answer: the largest fill no message.
pub const MAX_PRODUCTS_LIMIT: u16 = 400;

/// The headers of `q.<tenant>.products`, each at most once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProductsHeaders {
    pub if_none_match: Option<IfNoneMatch>,
    pub page: ProductsPage,
}

/// A page of the price list.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ProductsPage {
    /// From 1 to [`MAX_PRODUCTS_LIMIT`].
    pub limit: u16,
    /// Only products after this sku, which an earlier answer named.
    pub after: Option<Token>,
}

impl ProductsHeaders {
    /// # Errors
    /// `400 bad_header` for one that is repeated or malformed. Unknown headers are left alone.
    pub fn parse<'a>(
        headers: impl Iterator<Item = (&'a str, &'a str)> + Clone,
    ) -> Result<Self, Refusal> {
        let one = |name| once(headers.clone(), name);
        let limit = one(LIMIT)?.map(|value| number(LIMIT, value)).transpose()?;
        let limit = limit.map_or(Ok(PRODUCTS_LIMIT), u16::try_from);
        let limit = limit.ok().filter(|limit| (1..=MAX_PRODUCTS_LIMIT).contains(limit));
        let after = one(AFTER)?.map(|sku| Token::new(sku).map_err(|_| bad(AFTER))).transpose()?;
        Ok(Self {
            if_none_match: one(IF_NONE_MATCH)?.map(IfNoneMatch::parse).transpose()?,
            page: ProductsPage { limit: limit.ok_or_else(|| bad(LIMIT))?, after },
        })
    }
}

/// The body of a view: its parts as they stand in KV, and what is computed where they meet.
#[derive(Clone, Debug, Serialize)]
pub struct ViewBody<'a> {
    pub version: u64,
    pub core: &'a RawValue,
    /// Only of carts and orders.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub payments: Option<&'a RawValue>,
    /// Only of carts and orders: what is left of the total after what is paid.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub due: Option<Money>,
}

/// The body of an answer that is an error.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct QueryError {
    pub status: u16,
    pub code: Cow<'static, str>,
    pub message: Cow<'static, str>,
    /// The present version, where it is not the one asked for.
    pub version: Option<u64>,
    pub retry_after_ms: Option<u64>,
    /// The field or the header that is wrong; absent where it is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub param: Option<Cow<'static, str>>,
}

impl From<Refusal> for QueryError {
    fn from(refusal: Refusal) -> Self {
        let Refusal { status, code, message, retry_after_ms, param } = refusal;
        Self { status, code, message, version: None, retry_after_ms, param }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(headers: &[(&str, &str)]) -> Result<ViewHeaders, Refusal> {
        ViewHeaders::parse(headers.iter().copied())
    }

    #[test]
    fn reads_each_header_once_whatever_its_case() {
        let headers = [
            ("if-none-match", "W/\"7\""),
            ("MIN-VERSION", "8"),
            ("Wait-Ms", "30000"),
            ("confirm", "kv"),
            ("X-Other", "left alone"),
        ];
        let expected = ViewHeaders {
            if_none_match: Some(IfNoneMatch::Tags(vec!["7".to_owned()])),
            min_version: Some(8.into()),
            wait: Duration::from_secs(30),
            confirm_by_kv: true,
        };
        assert_eq!(parse(&headers).unwrap(), expected);
        assert_eq!(parse(&[]).unwrap(), ViewHeaders::default());
    }

    #[test]
    fn refuses_what_is_repeated_or_malformed() {
        let bad: &[&[(&str, &str)]] = &[
            &[("If-None-Match", "7")],
            &[("If-None-Match", "\"7\""), ("if-none-match", "\"7\"")],
            &[("Min-Version", "-1")],
            &[("Min-Version", "")],
            &[("Min-Version", "18446744073709551616")],
            &[("Min-Version", "1"), ("Min-Version", "1")],
            &[("Wait-Ms", "30001")],
            &[("Wait-Ms", "1.5")],
            &[("Wait-Ms", "1"), ("wait-ms", "1")],
            &[("Confirm", "sql")],
            &[("Confirm", "KV")],
            &[("Confirm", "")],
            &[("Confirm", "kv"), ("Confirm", "kv")],
        ];
        for headers in bad {
            assert_eq!(parse(headers).unwrap_err().code, "bad_header", "{headers:?}");
        }
    }

    #[test]
    fn a_history_is_asked_for_in_pieces() {
        let parse = |headers: &[(&str, &str)]| HistoryHeaders::parse(headers.iter().copied());
        assert_eq!(parse(&[]).unwrap(), HistoryHeaders { limit: 50, before: None });
        let asked = parse(&[("limit", "500"), ("Before", "17"), ("X-Other", "x")]).unwrap();
        assert_eq!(asked, HistoryHeaders { limit: 500, before: Some(17) });
        let bad: &[&[(&str, &str)]] = &[
            &[("Limit", "0")],
            &[("Limit", "501")],
            &[("Limit", "65537")],
            &[("Limit", "ten")],
            &[("Limit", "5"), ("limit", "5")],
            &[("Before", "")],
            &[("Before", "-1")],
            &[("Before", "9223372036854775808")],
            &[("Before", "1"), ("before", "1")],
        ];
        for headers in bad {
            assert_eq!(parse(headers).unwrap_err().code, "bad_header", "{headers:?}");
        }
    }

    #[test]
    fn a_price_list_is_asked_for_in_pages() {
        let parse = |headers: &[(&str, &str)]| ProductsHeaders::parse(headers.iter().copied());
        let all = parse(&[]).unwrap();
        assert_eq!(all.page, ProductsPage { limit: PRODUCTS_LIMIT, after: None });
        assert_eq!(all.if_none_match, None);
        let second = parse(&[("limit", "400"), ("After", "P-1"), ("If-None-Match", "\"7f\"")]);
        let second = second.unwrap();
        let after = Some(Token::new("P-1").unwrap());
        assert_eq!(second.page, ProductsPage { limit: 400, after });
        assert!(second.if_none_match.is_some_and(|known| known.has_tag("7f")));
        let bad: &[&[(&str, &str)]] = &[
            &[("Limit", "0")],
            &[("Limit", "401")],
            &[("Limit", "5"), ("limit", "5")],
            &[("After", "")],
            &[("After", "a.b")],
            &[("If-None-Match", "7f")],
        ];
        for headers in bad {
            assert_eq!(parse(headers).unwrap_err().code, "bad_header", "{headers:?}");
        }
    }

    #[test]
    fn only_what_an_aggregate_has_stands_in_its_view() {
        let part = RawValue::from_string(r#"{"version":3}"#.to_owned()).unwrap();
        let due = Some(Money::ZERO);
        let cart = ViewBody { version: 3, core: &part, payments: Some(&part), due };
        let table = ViewBody { payments: None, due: None, ..cart.clone() };
        let written = |view: &ViewBody| serde_json::to_string(view).unwrap();
        let both = r#"{"version":3,"core":{"version":3},"payments":{"version":3},"due":0}"#;
        assert_eq!(written(&cart), both);
        assert_eq!(written(&table), r#"{"version":3,"core":{"version":3}}"#);
    }
}
