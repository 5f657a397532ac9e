//! Extracts what handlers need from the head of a request: the segments of its path, and headers.

use std::time::Duration;

use axum::http::HeaderMap;
use brigade_contracts::{
    Refusal, Token,
    header::{bad, once},
    query::MAX_WAIT_MS,
};

use crate::runtime::http::Problem;

const PREFER: &str = "Prefer";

/// Reads a segment of a path, after percent-decoding.
///
/// # Errors
/// `400 bad_subject`.
pub(super) fn path_token(text: &str) -> Result<Token, Problem> {
    Token::new(text).map_err(|_| {
        let message = "each piece of the path has 1 to 64 characters of A-Z, a-z, 0-9, _ and -";
        Refusal::new(400, "bad_subject", message).into()
    })
}

/// Returns the headers of these names as pairs of name and value; a repeated header comes as often
/// as it stands there.
///
/// # Errors
/// `400 bad_header` for one that is not ASCII.
pub(super) fn select_headers<'a>(
    headers: &'a HeaderMap,
    names: &[&'static str],
) -> Result<Vec<(&'static str, &'a str)>, Refusal> {
    let values = names.iter().flat_map(|name| {
        headers
            .get_all(*name)
            .into_iter()
            .map(|value| (*name, value.to_str().map_err(|_| bad(name))))
    });
    values.map(|(name, value)| Ok((name, value?))).collect()
}

/// Returns the value of a header.
///
/// # Errors
/// `400 bad_header` if it is repeated or not ASCII.
pub(super) fn single_header<'a>(
    headers: &'a HeaderMap,
    name: &'static str,
) -> Result<Option<&'a str>, Refusal> {
    once(select_headers(headers, &[name])?.into_iter(), name)
}

/// Reads `Prefer: wait=S` (RFC 7240) in seconds, at most 30. A preference is no demand, so one that
/// cannot be read or is unknown is ignored.
pub(super) fn preferred_wait(headers: &HeaderMap) -> Option<Duration> {
    let values = headers.get_all(PREFER).into_iter().filter_map(|value| value.to_str().ok());
    let mut preferences = values.flat_map(|value| value.split(','));
    let seconds = preferences.find_map(|preference| {
        let (name, value) = preference.split(';').next()?.split_once('=')?;
        let value = value.trim().trim_matches('"');
        name.trim().eq_ignore_ascii_case("wait").then(|| value.parse::<u64>().ok())
    })??;
    Some(Duration::from_secs(seconds.min(MAX_WAIT_MS / 1000)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_preference_is_read_where_it_can_be() {
        let cases = [
            (&["wait=5"][..], Some(5)),
            (&["respond-async, wait=10"], Some(10)),
            (&["return=minimal", "Wait = \"7\"; x=1, wait=9"], Some(7)),
            (&["wait=3600"], Some(30)),
            (&["wait=0"], Some(0)),
            (&["wait=-1"], None),
            (&["wait"], None),
            (&["wait=1.5"], None),
            (&[], None),
        ];
        for (values, expected) in cases {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append("Prefer", value.parse().expect("a value"));
            }
            assert_eq!(preferred_wait(&headers), expected.map(Duration::from_secs), "{values:?}");
        }
    }
}
