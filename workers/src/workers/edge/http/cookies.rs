//! The cookies of a session: for pages, which then hold no token that a script could read, and whose
//! `EventSource`s need none.
//!
//! `__Host-brigade-<tenant>` holds the access token, `__Secure-brigade-refresh-<tenant>` the refresh
//! token, which is sent to the one path that uses it. Both are `Secure`, `HttpOnly` and
//! `SameSite=Strict`. What changes something needs the header [`CSRF`] besides: a page of another
//! site cannot send it.

use axum::http::{
    HeaderMap, HeaderValue,
    header::{AUTHORIZATION, COOKIE, SET_COOKIE},
};
use brigade_contracts::{Refusal, Secret, Token};
use brigade_domain::user::{ACCESS_LASTS, REFRESH_LASTS};

/// The header that a request has to carry which changes something and shows a cookie.
pub(super) const CSRF: &str = "Brigade-Csrf";

fn access_name(tenant: &Token) -> String {
    format!("__Host-brigade-{tenant}")
}

fn refresh_name(tenant: &Token) -> String {
    format!("__Secure-brigade-refresh-{tenant}")
}

fn refresh_path(tenant: &Token) -> String {
    format!("/v1/{tenant}/sessions/refresh")
}

/// Returns the value of a cookie, if it is there once. A second one was put there by somebody else.
fn value<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let headers = headers.get_all(COOKIE).into_iter().filter_map(|value| value.to_str().ok());
    let pairs = headers.flat_map(|value| value.split(';')).filter_map(|pair| pair.split_once('='));
    let mut values = pairs.filter(|(key, _)| key.trim() == name).map(|(_, value)| value.trim());
    let first = values.next();
    first.filter(|_| values.next().is_none())
}

/// Returns the access token of a request's cookie.
pub(super) fn access_token<'a>(tenant: &Token, headers: &'a HeaderMap) -> Option<&'a str> {
    value(headers, &access_name(tenant))
}

/// Returns the refresh token of a request's cookie.
pub(super) fn refresh_token(tenant: &Token, headers: &HeaderMap) -> Option<Secret> {
    Secret::new(value(headers, &refresh_name(tenant))?.to_owned()).ok()
}

/// Requires the header [`CSRF`] of a request that shows a cookie and no token.
///
/// # Errors
/// `403 csrf_header_missing`.
pub(super) fn require_csrf_header(tenant: &Token, headers: &HeaderMap) -> Result<(), Refusal> {
    let names = [access_name(tenant), refresh_name(tenant)];
    let shows_cookie = names.iter().any(|name| value(headers, name).is_some());
    if headers.contains_key(AUTHORIZATION) || !shows_cookie || headers.contains_key(CSRF) {
        return Ok(());
    }
    let message = format!("what changes something with a cookie needs the header {CSRF}");
    Err(Refusal::new(403, "csrf_header_missing", message))
}

/// Returns the cookies that hold these tokens.
pub(super) fn of(tenant: &Token, access: &Secret, refresh: &Secret) -> [HeaderValue; 2] {
    [
        cookie(&access_name(tenant), access.expose(), "/", ACCESS_LASTS.as_secs()),
        cookie(
            &refresh_name(tenant),
            refresh.expose(),
            &refresh_path(tenant),
            REFRESH_LASTS.as_secs(),
        ),
    ]
}

/// Takes the cookies away.
pub(super) fn clear(tenant: &Token, headers: &mut HeaderMap) {
    headers.append(SET_COOKIE, cookie(&access_name(tenant), "", "/", 0));
    headers.append(SET_COOKIE, cookie(&refresh_name(tenant), "", &refresh_path(tenant), 0));
}

fn cookie(name: &str, value: &str, path: &str, seconds: u64) -> HeaderValue {
    let text = format!(
        "{name}={value}; Path={path}; Max-Age={seconds}; Secure; HttpOnly; SameSite=Strict"
    );
    let mut cookie = HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static(""));
    cookie.set_sensitive(true);
    cookie
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(cookies: &[&str]) -> HeaderMap {
        let header = |cookie: &&str| (COOKIE, cookie.parse().expect("a value"));
        cookies.iter().map(header).collect()
    }

    #[test]
    fn a_cookie_is_read_where_it_is_there_once() {
        let tenant = Token::new("t1").expect("a token");
        let read = |cookies: &[&str]| access_token(&tenant, &headers(cookies)).map(str::to_owned);
        assert_eq!(read(&["a=b; __Host-brigade-t1=ada.x"]), Some("ada.x".to_owned()));
        for none in [&[][..], &["__Host-brigade-t2=ada.x"], &["brigade-t1=ada.x"]] {
            assert_eq!(read(none), None);
        }
        assert_eq!(read(&["__Host-brigade-t1=a", "__Host-brigade-t1=b"]), None);
    }

    #[test]
    fn a_change_by_cookie_needs_a_header_that_no_other_site_can_send() {
        let tenant = Token::new("t1").expect("a token");
        let code = |headers: &HeaderMap| {
            require_csrf_header(&tenant, headers).map_err(|refusal| refusal.code)
        };
        let mut shown = headers(&["__Host-brigade-t1=ada.x"]);
        assert_eq!(code(&shown), Err("csrf_header_missing".into()));
        shown.insert(CSRF, HeaderValue::from_static("1"));
        assert_eq!(code(&shown), Ok(()));
        let mut bearer = headers(&["__Host-brigade-t1=ada.x"]);
        bearer.insert(AUTHORIZATION, HeaderValue::from_static("Bearer ada.y"));
        assert_eq!(code(&bearer), Ok(()));
        assert_eq!(code(&HeaderMap::new()), Ok(()));
    }

    #[test]
    fn cookies_are_for_this_host_and_no_script() {
        let tenant = Token::new("t1").expect("a token");
        let secret = |text: &str| Secret::new(text.to_owned()).expect("a secret");
        let [access, refresh] = of(&tenant, &secret("ada.a"), &secret("ada.r"));
        assert_eq!(
            access,
            "__Host-brigade-t1=ada.a; Path=/; Max-Age=900; Secure; HttpOnly; SameSite=Strict"
        );
        assert_eq!(
            refresh,
            "__Secure-brigade-refresh-t1=ada.r; Path=/v1/t1/sessions/refresh; Max-Age=2592000; \
             Secure; HttpOnly; SameSite=Strict"
        );
        assert!(access.is_sensitive() && !format!("{access:?}").contains("ada.a"));
    }
}
