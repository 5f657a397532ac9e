//! The access tokens that this edge has confirmed or issued lately. A request that shows one counts
//! for its user from the start, so nobody who shares his address uses up what he needs to be let in.
//!
//! That a token is known lets nobody in: it is confirmed with SQL at each request all the same. One
//! that is refused is forgotten.

use axum::http::HeaderMap;
use brigade_contracts::{Secret, Token, user::user_of};
use brigade_domain::user::ACCESS_LASTS;
use moka::sync::Cache;
use sha2::{Digest as _, Sha256};

use super::auth::shown_token;

/// The most tokens that are known, some 150 bytes each; those that were not used for the longest time
/// are forgotten.
const MAX_TOKENS: u64 = 100_000;

/// The known tokens, of which hashes are kept.
pub(super) struct KnownTokens(Cache<[u8; 32], ()>);

/// A token that a request shows, whatever it is worth.
#[derive(Clone, Debug)]
pub(super) struct ShownToken {
    digest: [u8; 32],
    /// `<tenant>.<user>`, as the token says.
    pub user: String,
}

impl Default for KnownTokens {
    fn default() -> Self {
        Self(Cache::builder().max_capacity(MAX_TOKENS).time_to_live(ACCESS_LASTS).build())
    }
}

impl KnownTokens {
    pub fn has(&self, token: &ShownToken) -> bool {
        self.0.contains_key(&token.digest)
    }

    pub fn remember(&self, token: &ShownToken) {
        self.0.insert(token.digest, ());
    }

    pub fn forget(&self, token: &ShownToken) {
        self.0.invalidate(&token.digest);
    }
}

impl ShownToken {
    /// Returns an access token of a tenant's user; `None` if it names none.
    pub fn new(tenant: &Token, token: &Secret) -> Option<Self> {
        let user = user_of(token)?;
        let digest = Sha256::digest(format!("{tenant} {}", token.expose())).into();
        Some(Self { digest, user: format!("{tenant}.{user}") })
    }

    /// Returns what a request to this path shows.
    pub fn of(path: &str, headers: &HeaderMap) -> Option<Self> {
        let tenant = path.strip_prefix("/v1/")?.split('/').next()?;
        let tenant = Token::new(tenant).ok()?;
        let token = shown_token(&tenant, headers).ok()??;
        Self::new(&tenant, &Secret::new(token.to_owned()).ok()?)
    }
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderValue, header::AUTHORIZATION};

    use super::*;

    #[test]
    fn a_token_is_known_in_its_tenant_until_it_is_forgotten() {
        let known = KnownTokens::default();
        let shown = |path: &str, token: &str| {
            let credentials = HeaderValue::try_from(format!("Bearer {token}")).expect("a value");
            ShownToken::of(path, &HeaderMap::from_iter([(AUTHORIZATION, credentials)]))
        };
        let token = format!("ada.{}", "a".repeat(43));
        let adas = shown("/v1/t1/me", &token).expect("a token");
        assert_eq!((adas.user.as_str(), known.has(&adas)), ("t1.ada", false));
        known.remember(&adas);
        let same = ["/v1/t1/products", "/v1/t2/me"].map(|path| shown(path, &token));
        let same = same.map(|token| token.map(|token| known.has(&token)));
        assert_eq!(same, [Some(true), Some(false)]);
        known.forget(&adas);
        assert!(!known.has(&adas));
        for (path, token) in [("/v1/t1/me", "ada"), ("/v1/errors", ""), ("/v1/t.1/me", &*token)] {
            assert!(shown(path, token).is_none(), "{path} {token}");
        }
        assert!(ShownToken::of("/v1/t1/me", &HeaderMap::new()).is_none());
    }
}
