//! Extracts what handlers need from the head of a request: the segments of its path, and headers.

use std::{net::IpAddr, time::Duration};

use axum::http::{HeaderMap, header::HOST, uri::Authority};
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

/// Returns true if a request names this machine as its host, and comes through no proxy. A page in
/// a browser that has its own name resolved to this machine does not, and must not be trusted; nor
/// whom a proxy on this machine lets in.
pub(super) fn is_for_loopback(headers: &HeaderMap) -> bool {
    if ["forwarded", "x-forwarded-for", "via"].iter().any(|name| headers.contains_key(*name)) {
        return false;
    }
    let host = headers.get(HOST).and_then(|host| host.to_str().ok()?.parse::<Authority>().ok());
    host.is_some_and(|host| {
        let name = host.host().trim_matches(['[', ']']);
        let address = name.parse::<IpAddr>();
        name.eq_ignore_ascii_case("localhost") || address.is_ok_and(|ip| ip.is_loopback())
    })
}

/// Returns the token of `Bearer <token>`.
pub(super) fn bearer_token(credentials: &str) -> Option<&str> {
    let (scheme, token) = credentials.split_once(' ')?;
    scheme.eq_ignore_ascii_case("Bearer").then(|| token.trim_matches(' '))
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

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

    #[test]
    fn only_a_host_on_loopback_is_this_machine() {
        let of = |host: &str| {
            let host = host.parse().expect("a value");
            is_for_loopback(&HeaderMap::from_iter([(HOST, host)]))
        };
        for host in ["localhost", "LocalHost:8080", "127.0.0.1:80", "127.9.9.9", "[::1]:80"] {
            assert!(of(host), "{host}");
        }
        for host in ["shop.example", "localhost.evil.example", "10.0.0.1:80", "", "a b"] {
            assert!(!of(host), "{host}");
        }
        assert!(!is_for_loopback(&HeaderMap::new()));
        let mut forwarded = HeaderMap::from_iter([(HOST, HeaderValue::from_static("localhost"))]);
        assert!(is_for_loopback(&forwarded));
        forwarded.insert("x-forwarded-for", HeaderValue::from_static("192.0.2.7"));
        assert!(!is_for_loopback(&forwarded));
    }

    #[test]
    fn a_token_stands_behind_its_scheme() {
        assert_eq!(bearer_token("Bearer a.b"), Some("a.b"));
        assert_eq!(bearer_token("bearer  a.b "), Some("a.b"));
        for bad in ["a.b", "Bearer", "Basic a.b", ""] {
            assert_eq!(bearer_token(bad), None, "{bad}");
        }
    }
}
