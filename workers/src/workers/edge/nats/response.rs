//! The headers of responses over NATS.

use async_nats::{
    HeaderMap,
    service::{NATS_SERVICE_ERROR, NATS_SERVICE_ERROR_CODE},
};
use brigade_contracts::header;

use crate::workers::edge::query::QueryReply;

/// Returns the headers of a reply: its status, ETag and error code.
#[must_use]
pub fn response_headers(reply: &QueryReply) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let status = reply.status.to_string();
    headers.insert(header::STATUS, status.as_str());
    if let Some(etag) = &reply.etag {
        headers.insert(header::ETAG, etag.as_str());
    }
    if reply.by_kv {
        headers.insert(header::CONFIRMED_BY, "kv");
    }
    if let Some(code) = &reply.error {
        headers.insert(NATS_SERVICE_ERROR_CODE, status.as_str());
        headers.insert(NATS_SERVICE_ERROR, code.as_ref());
    }
    headers
}

#[cfg(test)]
mod tests {
    use brigade_contracts::Refusal;

    use super::*;

    #[test]
    fn a_status_an_etag_and_an_error_are_headers() {
        let text = |reply: &QueryReply, name: &str| {
            response_headers(reply).get(name).map(|value| value.as_str().to_owned())
        };
        let same = QueryReply { by_kv: true, ..QueryReply::not_modified("\"7\"".to_owned()) };
        assert_eq!(text(&same, header::STATUS).as_deref(), Some("304"));
        assert_eq!(text(&same, header::ETAG).as_deref(), Some("\"7\""));
        assert_eq!(text(&same, header::CONFIRMED_BY).as_deref(), Some("kv"));
        assert_eq!(text(&same, NATS_SERVICE_ERROR), None);
        let refused = QueryReply::from(Refusal::new(404, "not_found", "no"));
        assert_eq!(text(&refused, NATS_SERVICE_ERROR_CODE).as_deref(), Some("404"));
        assert_eq!(text(&refused, NATS_SERVICE_ERROR).as_deref(), Some("not_found"));
        assert_eq!(text(&refused, header::ETAG), None);
    }
}
