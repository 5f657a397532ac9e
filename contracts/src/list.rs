//! `q.<tenant>.active_orders`: its headers and the shapes of its answers.
//!
//! The list comes in pages. A page goes on behind a place that the page before it named (`next`),
//! and the orders behind it keep their places: so whoever reads page after page meets each order
//! that stands there the whole time once.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{
    IfNoneMatch, Money, Refusal,
    header::{AFTER, CONFIRM, IF_NONE_MATCH, LIMIT, RESUME, bad, number, once},
    order::{ActiveCore, ActivePayment},
};

/// Most rows in an answer.
pub const MAX_ROWS: usize = 1000;
/// Most active orders of a tenant whose changes are followed; of more, pages are all there is.
pub const MAX_FOLLOWED: usize = 2000;
/// Most bytes of a row. The row of a larger order leaves out its last items, and says how many.
pub const MAX_ROW_BYTES: usize = 8 * 1024;
/// Most bytes of the core of a row, as it stands in KV: what is computed beside it takes the rest.
pub const MAX_ROW_CORE_BYTES: usize = MAX_ROW_BYTES - 512;
/// Most bytes in an answer, below the 1 MiB that nats-server takes.
pub const MAX_BYTES: usize = 900_000;

/// The headers, each at most once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListHeaders {
    pub if_none_match: Option<IfNoneMatch>,
    /// A position as an earlier answer gave it. Whatever it is, it is not malformed: one that
    /// nobody knows is answered by a reset.
    pub resume: Option<String>,
    /// Most rows of the page, from 1 to [`MAX_ROWS`]; without it as many.
    pub limit: Option<u16>,
    /// The `next` of the page before. Whether it is one, edge knows.
    pub after: Option<String>,
}

impl ListHeaders {
    /// # Errors
    /// `400 bad_header` for one that is repeated or malformed, and for a page of what changed since
    /// a position: changes have no pages. `Confirm: kv` is taken, but there is nothing in KV that
    /// could confirm a list. Unknown headers are left alone.
    pub fn parse<'a>(
        headers: impl Iterator<Item = (&'a str, &'a str)> + Clone,
    ) -> Result<Self, Refusal> {
        let one = |name| once(headers.clone(), name);
        if one(CONFIRM)?.is_some_and(|by| by != "kv") {
            return Err(bad(CONFIRM));
        }
        let limit = one(LIMIT)?.map(|value| number(LIMIT, value)).transpose()?;
        let limit = limit.map(|limit| u16::try_from(limit).ok().filter(is_limit));
        let headers = Self {
            if_none_match: one(IF_NONE_MATCH)?.map(IfNoneMatch::parse).transpose()?,
            resume: one(RESUME)?.map(str::to_owned),
            limit: limit.map(|limit| limit.ok_or_else(|| bad(LIMIT))).transpose()?,
            after: one(AFTER)?.map(str::to_owned),
        };
        if headers.after.is_some() && headers.resume.is_some() {
            Err(bad(AFTER))
        } else {
            Ok(headers)
        }
    }

    /// Returns true if the asker already has the page of this ETag, without its quotation marks.
    #[must_use]
    pub fn has(&self, tag: &str) -> bool {
        self.if_none_match.as_ref().is_some_and(|known| known.has_tag(tag))
    }
}

/// A row of the list, and a change of it: the core row as it stands in KV, with `version`, `at`
/// and `change`, the payment row, and what is computed where they meet.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ActiveRow {
    #[serde(flatten)]
    pub core: ActiveCore,
    pub payment: ActivePayment,
    pub due: Money,
}

/// A page of the list, newest first.
#[derive(Clone, Debug, Serialize)]
pub struct List<'a> {
    /// The position that was to be resumed is of no use: this is everything, or its first page.
    #[serde(skip_serializing_if = "is_false")]
    pub reset: bool,
    pub rows: Vec<&'a RawValue>,
    /// There are older ones.
    #[serde(skip_serializing_if = "is_false")]
    pub more: bool,
    /// The header `After` of the next page, if there are older ones.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<&'a str>,
    /// The position of the last page is the moment of the first one: what changed since then is all
    /// that a reader of the pages may have missed. That of another page is of no use.
    pub resume: &'a str,
}

/// The rows that changed since a position, each once.
#[derive(Clone, Debug, Serialize)]
pub struct ListChanges<'a> {
    pub changes: Vec<&'a RawValue>,
    pub resume: &'a str,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "as `filter` calls it")]
fn is_limit(limit: &u16) -> bool {
    (1..=MAX_ROWS).contains(&usize::from(*limit))
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
fn is_false(flag: &bool) -> bool {
    !flag
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(headers: &[(&str, &str)]) -> Result<ListHeaders, Refusal> {
        ListHeaders::parse(headers.iter().copied())
    }

    #[test]
    fn reads_each_header_once_and_any_position() {
        let known = parse(&[("if-none-match", "\"ab\""), ("Confirm", "kv")]).unwrap();
        assert!(known.has("ab") && !known.has("a"));
        assert_eq!(parse(&[("RESUME", "what?")]).unwrap().resume.as_deref(), Some("what?"));
        assert_eq!(parse(&[("X-Other", "left alone")]).unwrap(), ListHeaders::default());
        let page = parse(&[("limit", "1000"), ("After", "what?")]).unwrap();
        assert_eq!((page.limit, page.after.as_deref()), (Some(1000), Some("what?")));
    }

    #[test]
    fn refuses_what_is_repeated_or_malformed() {
        let bad: &[&[(&str, &str)]] = &[
            &[("If-None-Match", "ab")],
            &[("If-None-Match", "\"a\""), ("If-None-Match", "\"a\"")],
            &[("Resume", "a"), ("resume", "a")],
            &[("Confirm", "sql")],
            &[("Limit", "0")],
            &[("Limit", "1001")],
            &[("Limit", "65537")],
            &[("Limit", "1"), ("limit", "1")],
            &[("After", "a"), ("after", "a")],
            &[("After", "a"), ("Resume", "a")],
        ];
        for headers in bad {
            assert_eq!(parse(headers).unwrap_err().code, "bad_header", "{headers:?}");
        }
    }

    #[test]
    fn flags_are_there_only_where_they_are_set() {
        let row = RawValue::from_string("{}".to_owned()).unwrap();
        let list = List { reset: false, rows: vec![&*row], more: false, next: None, resume: "p" };
        let written = |list: &List| serde_json::to_string(list).unwrap();
        assert_eq!(written(&list), r#"{"rows":[{}],"resume":"p"}"#);
        let cut = List { reset: true, more: true, next: Some("n"), ..list };
        let expected = r#"{"reset":true,"rows":[{}],"more":true,"next":"n","resume":"p"}"#;
        assert_eq!(written(&cut), expected);
    }
}
