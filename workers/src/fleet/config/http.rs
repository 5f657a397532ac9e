//! The settings of HTTP.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use axum::http::HeaderValue;

use super::text;
use crate::runtime::http::{ApiOptions, TlsFiles};

const TRUSTED_PROXIES: &str = "BRIGADE_TRUSTED_PROXIES";
const RATES: &str = "BRIGADE_HTTP_RATES";

/// `BRIGADE_HTTP_TLS_CERT` and `BRIGADE_HTTP_TLS_KEY`.
pub(super) fn http_tls() -> Result<Option<TlsFiles>> {
    match ["BRIGADE_HTTP_TLS_CERT", "BRIGADE_HTTP_TLS_KEY"].map(|name| text(name).map(Into::into)) {
        [Some(certificate), Some(key)] => Ok(Some(TlsFiles { certificate, key })),
        [None, None] => Ok(None),
        _ => anyhow::bail!("BRIGADE_HTTP_TLS_CERT and BRIGADE_HTTP_TLS_KEY go together"),
    }
}

/// `BRIGADE_HTTP_OPEN`, for this machine alone.
pub(super) fn open(http: SocketAddr, setting: Option<&str>) -> Result<bool> {
    let open = setting == Some("1");
    anyhow::ensure!(
        !open || http.ip().is_loopback(),
        "BRIGADE_HTTP_OPEN: {http} is no address of loopback, and everybody would be trusted"
    );
    Ok(open)
}

/// Returns the settings of the API: `BRIGADE_HTTP_CORS_ORIGINS`, `BRIGADE_TRUSTED_PROXIES`,
/// `BRIGADE_HTTP_RATES`.
///
/// # Errors
/// If one of them cannot be read.
pub fn api_options(open: bool) -> Result<ApiOptions> {
    let proxies = text(TRUSTED_PROXIES).unwrap_or_default();
    let rates = text(RATES).unwrap_or_default();
    Ok(ApiOptions {
        open,
        origins: cors_origins()?,
        trusted_proxies: proxies.parse().context(TRUSTED_PROXIES)?,
        rates: rates.parse().context(RATES)?,
        ..ApiOptions::default()
    })
}

/// `BRIGADE_HTTP_CORS_ORIGINS`.
///
/// # Errors
/// If one of them is no origin: `http://` or `https://`, a host and perhaps a port.
fn cors_origins() -> Result<Vec<HeaderValue>> {
    origins(&text("BRIGADE_HTTP_CORS_ORIGINS").unwrap_or_default())
}

fn origins(list: &str) -> Result<Vec<HeaderValue>> {
    let origin = |origin: &str| {
        let host = origin.strip_prefix("https://").or_else(|| origin.strip_prefix("http://"));
        let fits = |c: char| c.is_ascii_alphanumeric() || ".-:[]".contains(c);
        let ok = host.is_some_and(|host| !host.is_empty() && host.chars().all(fits));
        anyhow::ensure!(ok, "BRIGADE_HTTP_CORS_ORIGINS: {origin:?} is no origin");
        Ok(origin.to_ascii_lowercase().try_into()?)
    };
    list.split(',').map(str::trim).filter(|text| !text.is_empty()).map(origin).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn http_is_open_on_loopback_alone() {
        let open = |address: &str, setting| open(address.parse().unwrap(), setting);
        assert!(open("127.0.0.1:80", Some("1")).unwrap() && open("[::1]:80", Some("1")).unwrap());
        for address in ["0.0.0.0:80", "[::]:80", "10.0.0.1:80"] {
            assert!(open(address, Some("1")).is_err(), "{address}");
            assert!(!open(address, None).unwrap() && !open(address, Some("0")).unwrap());
        }
    }

    #[test]
    fn an_origin_is_a_scheme_and_a_host() {
        let all = origins("https://shop.example, http://localhost:5173,,").unwrap();
        assert_eq!(all, ["https://shop.example", "http://localhost:5173"]);
        assert!(origins("").unwrap().is_empty());
        for bad in ["*", "shop.example", "https://", "https://a/b", "https://a b", "null"] {
            assert!(origins(bad).is_err(), "{bad}");
        }
    }
}
