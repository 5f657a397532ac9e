//! `q.<tenant>.active_orders`: its headers and the shapes of its answers.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{
    IfNoneMatch, Money, Refusal,
    header::{CONFIRM, IF_NONE_MATCH, RESUME, bad, once},
    order::{ActiveCore, ActivePayment},
};

/// Most rows in an answer.
pub const MAX_ROWS: usize = 1000;
/// Most bytes in an answer, below the 1 MiB that nats-server takes.
pub const MAX_BYTES: usize = 900_000;

/// The headers, each at most once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListHeaders {
    pub if_none_match: Option<IfNoneMatch>,
    /// A position as an earlier answer gave it. Whatever it is, it is not malformed: one that
    /// nobody knows is answered by a reset.
    pub resume: Option<String>,
}

impl ListHeaders {
    /// # Errors
    /// `400 bad_header` for one that is repeated or malformed. `Confirm: kv` is taken, but there
    /// is nothing in KV that could confirm a list. Unknown headers are left alone.
    pub fn parse<'a>(
        headers: impl Iterator<Item = (&'a str, &'a str)> + Clone,
    ) -> Result<Self, Refusal> {
        let one = |name| once(headers.clone(), name);
        if one(CONFIRM)?.is_some_and(|by| by != "kv") {
            return Err(bad(CONFIRM));
        }
        Ok(Self {
            if_none_match: one(IF_NONE_MATCH)?.map(IfNoneMatch::parse).transpose()?,
            resume: one(RESUME)?.map(str::to_owned),
        })
    }

    /// Returns true if the asker already has the list of this ETag, without its quotation marks.
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

/// The whole list, newest first.
#[derive(Clone, Debug, Serialize)]
pub struct List<'a> {
    /// The position that was to be resumed is of no use: this is everything.
    #[serde(skip_serializing_if = "is_false")]
    pub reset: bool,
    pub rows: Vec<&'a RawValue>,
    /// There are older ones.
    #[serde(skip_serializing_if = "is_false")]
    pub more: bool,
    pub resume: &'a str,
}

/// The rows that changed since a position, each once.
#[derive(Clone, Debug, Serialize)]
pub struct ListChanges<'a> {
    pub changes: Vec<&'a RawValue>,
    pub resume: &'a str,
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
    }

    #[test]
    fn refuses_what_is_repeated_or_malformed() {
        let bad: &[&[(&str, &str)]] = &[
            &[("If-None-Match", "ab")],
            &[("If-None-Match", "\"a\""), ("If-None-Match", "\"a\"")],
            &[("Resume", "a"), ("resume", "a")],
            &[("Confirm", "sql")],
        ];
        for headers in bad {
            assert_eq!(parse(headers).unwrap_err().code, "bad_header", "{headers:?}");
        }
    }

    #[test]
    fn flags_are_there_only_where_they_are_set() {
        let row = RawValue::from_string("{}".to_owned()).unwrap();
        let list = List { reset: false, rows: vec![&*row], more: false, resume: "p" };
        let written = |list: &List| serde_json::to_string(list).unwrap();
        assert_eq!(written(&list), r#"{"rows":[{}],"resume":"p"}"#);
        let cut = List { reset: true, more: true, ..list };
        assert_eq!(written(&cut), r#"{"reset":true,"rows":[{}],"more":true,"resume":"p"}"#);
    }
}
