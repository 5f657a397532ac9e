//! `GET /v1/errors` and `GET /v1/errors/{code}`: what the codes mean, from the page of the
//! reference, so that the `type` of an error leads somewhere.

use axum::{
    extract::Path,
    http::{
        HeaderValue,
        header::{CACHE_CONTROL, CONTENT_TYPE},
    },
    response::IntoResponse,
};
use brigade_contracts::Refusal;

use super::response::PUBLIC;
use crate::runtime::http::Problem;

/// The page, whose table has a row for each code; a test holds it against the sources.
const PAGE: &str = include_str!("../../../../../docs/reference/errors.md");

/// Handles `GET /v1/errors`.
pub(super) async fn get_errors() -> impl IntoResponse {
    let markdown = HeaderValue::from_static("text/markdown; charset=utf-8");
    ([(CONTENT_TYPE, markdown), (CACHE_CONTROL, PUBLIC)], PAGE)
}

/// Handles `GET /v1/errors/{code}`.
pub(super) async fn get_error(Path(code): Path<String>) -> Result<impl IntoResponse, Problem> {
    let page = explain(&code).ok_or_else(|| {
        Refusal::new(404, "not_found", "there is no such code; all of them: /v1/errors")
    })?;
    let text = HeaderValue::from_static("text/plain; charset=utf-8");
    Ok(([(CONTENT_TYPE, text), (CACHE_CONTROL, PUBLIC)], page))
}

/// Returns what a code means; `None` if there is no such code.
fn explain(code: &str) -> Option<String> {
    let row = PAGE.lines().find_map(|line| line.strip_prefix(&format!("| `{code}` |")))?;
    let cells: Vec<_> = row.split('|').map(str::trim).collect();
    let [status, from, is_final, what, _] = cells[..] else { return None };
    let status = format!("status: {status}\nfrom: {from}\nfinal: {is_final}");
    Some(format!("{code}\n\n{status}\nwhat to do: {what}\n\nall codes and the words: /v1/errors\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_code_of_the_reference_has_its_page() {
        let codes = PAGE.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
        let codes: Vec<_> = codes.collect();
        assert!(codes.len() > 100, "{codes:?}");
        for code in codes {
            assert!(explain(code).is_some_and(|page| page.starts_with(code)), "{code}");
        }
        assert!(explain("cart_locked").is_some_and(|page| page.contains("status: 423\n")));
        for none in ["", "cart", "no_such_code", "cart_locked` |"] {
            assert_eq!(explain(none), None, "{none}");
        }
    }
}
