//! `If-None-Match`, as RFC 9110 (8.8.3 and 13.1.2) writes it.

use crate::{
    EraVersion, Refusal,
    header::{IF_NONE_MATCH, bad},
};

/// Which versions the asker already has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IfNoneMatch {
    /// `*`: any version at all.
    Any,
    /// The text between the quotation marks of each entity tag; `W/` makes no difference to the
    /// weak comparison that this header asks for.
    Tags(Vec<String>),
}

impl IfNoneMatch {
    /// # Errors
    /// `400 bad_header` for anything but `*` or a list with at least one entity tag.
    pub fn parse(value: &str) -> Result<Self, Refusal> {
        let value = value.trim_matches(is_blank);
        if value == "*" {
            return Ok(Self::Any);
        }
        let mut tags = Vec::new();
        let mut rest = value;
        loop {
            // Empty elements are allowed anywhere in a list.
            rest = rest.trim_start_matches(|c| c == ',' || is_blank(c));
            if rest.is_empty() {
                break;
            }
            let (tag, after) = tag(rest).ok_or_else(|| bad(IF_NONE_MATCH))?;
            tags.push(tag.to_owned());
            rest = after.trim_start_matches(is_blank);
            if !rest.is_empty() && !rest.starts_with(',') {
                return Err(bad(IF_NONE_MATCH));
            }
        }
        if tags.is_empty() { Err(bad(IF_NONE_MATCH)) } else { Ok(Self::Tags(tags)) }
    }

    /// Returns true if the asker already has this version.
    #[must_use]
    pub fn has(&self, version: EraVersion) -> bool {
        self.has_tag(&version.to_string())
    }

    /// Returns true if the asker already has what this tag, without its quotation marks, names.
    #[must_use]
    pub fn has_tag(&self, tag: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Tags(tags) => tags.iter().any(|known| known == tag),
        }
    }
}

/// One entity tag at the start of the text: what it holds, and what follows it.
fn tag(text: &str) -> Option<(&str, &str)> {
    let opaque = text.strip_prefix("W/").unwrap_or(text).strip_prefix('"')?;
    let (tag, rest) = opaque.split_once('"')?;
    let allowed = |c: char| c == '!' || ('#'..='~').contains(&c) || !c.is_ascii();
    tag.chars().all(allowed).then_some((tag, rest))
}

fn is_blank(c: char) -> bool {
    c == ' ' || c == '\t'
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::Era;

    #[test]
    fn every_form_is_read() {
        let cases: &[(&str, &[&str])] = &[
            ("\"13\"", &["13"]),
            ("W/\"13\"", &["13"]),
            ("\"12\", \"13\"", &["12", "13"]),
            ("\"12\",W/\"13\"", &["12", "13"]),
            ("\t \"12\" \t,\t\"13\" ", &["12", "13"]),
            (", ,\"13\",,", &["13"]),
            ("\"a,b\", \"13\"", &["a,b", "13"]),
            ("\"\"", &[""]),
            ("\"v10\"", &["v10"]),
            ("\"W/13\"", &["W/13"]),
            ("\"*\"", &["*"]),
            ("\"é\"", &["é"]),
        ];
        for (value, tags) in cases {
            let tags = tags.iter().map(|tag| (*tag).to_owned()).collect();
            assert_eq!(IfNoneMatch::parse(value), Ok(IfNoneMatch::Tags(tags)), "{value}");
        }
        assert_eq!(IfNoneMatch::parse(" * "), Ok(IfNoneMatch::Any));
    }

    #[test]
    fn what_is_no_list_of_tags_is_refused() {
        for value in [
            "",
            " ",
            ",",
            "13",
            "\"13",
            "13\"",
            "\"12\" \"13\"",
            "\"12\"\"13\"",
            "\"12\";\"13\"",
            "w/\"13\"",
            "W/ \"13\"",
            "W/13",
            "*, \"13\"",
            "\"13\", *",
            "**",
            "\"1 3\"",
            "\"1\t3\"",
            "'13'",
        ] {
            assert_eq!(IfNoneMatch::parse(value).unwrap_err().code, "bad_header", "{value:?}");
        }
    }

    #[test]
    fn a_version_is_compared_as_its_tag_is_written() {
        let has =
            |value: &str, version| IfNoneMatch::parse(value).unwrap().has(Era::FIRST.at(version));
        assert!(has("\"13\"", 13) && has("W/\"13\"", 13) && has("\"12\", \"13\"", 13));
        assert!(has("*", 13));
        for other in ["\"12\"", "\"013\"", "\"+13\"", "\"v13\"", "\"13,\"", "\"W/13\"", "\"\""] {
            assert!(!has(other, 13), "{other}");
        }
    }

    proptest! {
        #[test]
        fn a_list_that_is_written_is_read(
            tags in prop::collection::vec("[!#-~é]{0,8}", 1..5),
            weak in prop::collection::vec(any::<bool>(), 5),
            blanks in prop::collection::vec("[ \t]{0,3}", 10),
        ) {
            let written: Vec<String> = tags
                .iter()
                .enumerate()
                .map(|(at, tag)| {
                    let weak = if weak[at] { "W/" } else { "" };
                    format!("{}{weak}\"{tag}\"{}", blanks[2 * at], blanks[2 * at + 1])
                })
                .collect();
            let read = IfNoneMatch::parse(&written.join(","));
            prop_assert_eq!(read, Ok(IfNoneMatch::Tags(tags)));
        }

        #[test]
        fn anything_is_borne(value in "[ -~\t*\"W/,é]{0,40}") {
            if let Ok(IfNoneMatch::Tags(tags)) = IfNoneMatch::parse(&value) {
                // Nothing is made up: each tag stands in the value, with its quotation marks.
                let made_up = tags.iter().find(|tag| !value.contains(&format!("\"{tag}\"")));
                prop_assert_eq!(made_up, None);
            }
        }
    }
}
