//! The price list of a restaurant as it is, by queries and commands.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context, Result, bail};
use async_nats::{HeaderMap, Request};
use brigade::infra::nats::OperatorConnection;
use brigade_contracts::{
    Address, Aggregate, Body, EraVersion, Outcome, Token,
    client::{Client, Send},
    header::{AFTER, ETAG, LIMIT, STATUS},
    product::{ListedProduct, ProductPage, SetProduct, Verb},
    query::MAX_PRODUCTS_LIMIT,
    subject,
};
use sha2::{Digest, Sha256};

/// The time for which a query or a command is repeated.
const PATIENCE: Duration = Duration::from_secs(20);

/// The list of one restaurant.
pub struct PriceList {
    operator: OperatorConnection,
    client: Client,
    tenant: Token,
}

impl PriceList {
    #[must_use]
    pub fn new(operator: OperatorConnection, tenant: Token) -> Self {
        let client = Client::new(operator.client.clone(), PATIENCE);
        Self { operator, client, tenant }
    }

    /// Returns all products of the list, by sku.
    ///
    /// # Errors
    /// If no edge answers, or the restaurant is not served.
    pub async fn products(&self) -> Result<BTreeMap<Token, ListedProduct>> {
        let mut products = BTreeMap::new();
        let mut after = None::<Token>;
        loop {
            let mut headers = HeaderMap::new();
            headers.insert(LIMIT, MAX_PRODUCTS_LIMIT.to_string());
            if let Some(after) = &after {
                headers.insert(AFTER, after.as_str());
            }
            let (status, _, body) =
                self.query(subject::query_products(&self.tenant), headers).await?;
            if status != 200 {
                bail!("the price list was not told: {}", String::from_utf8_lossy(&body));
            }
            let page: ProductPage = serde_json::from_slice(&body)?;
            products.extend(page.products.into_iter().map(|p| (p.sku.clone(), p)));
            after = page.after;
            if after.is_none() {
                return Ok(products);
            }
        }
    }

    /// Sets a product, unless somebody changes it meanwhile. The Command-Id says from which version
    /// to what, so that it is the same when this is begun again, and another one when the product
    /// has been something else in between.
    ///
    /// # Errors
    /// If nobody decides it in time.
    pub async fn set(&self, sku: &Token, set: &SetProduct, actor: &Token) -> Result<Outcome> {
        let product = |id: &Token| Address {
            tenant: self.tenant.clone(),
            aggregate: Aggregate::Product,
            id: id.clone(),
        };
        let version = self.version(&product(sku)).await?;
        let body = Body::Product(Verb::Set(set.clone()));
        let mut hash = Sha256::new();
        hash.update(format!("{}.{sku}@{version} ", self.tenant));
        hash.update(body.encode().1);
        let send = Send {
            command_id: Token::new(&format!("import-{}", &hex::encode(hash.finalize())[..40]))?,
            expected_version: Some(version),
            actor: Some(actor.clone()),
            ..Send::new(product(sku), body)
        };
        Ok(self.client.send(&send).await?)
    }

    /// Returns the version of a product, on the list or withdrawn; 0 of one that never was.
    async fn version(&self, product: &Address) -> Result<EraVersion> {
        let (status, headers, body) =
            self.query(subject::query_view(product), HeaderMap::new()).await?;
        match (status, headers.get(ETAG)) {
            (404, _) => Ok(EraVersion::default()),
            (200, Some(etag)) => {
                let version = etag.as_str().trim_matches('"');
                version.parse().ok().with_context(|| format!("an ETag {version:?}"))
            }
            _ => bail!("{product} was not told: {}", String::from_utf8_lossy(&body)),
        }
    }

    /// Asks until it is answered by something else than 503.
    async fn query(
        &self,
        subject: String,
        headers: HeaderMap,
    ) -> Result<(u16, HeaderMap, Vec<u8>)> {
        let until = tokio::time::Instant::now() + PATIENCE;
        loop {
            let request = Request::new().headers(headers.clone()).payload("".into());
            let reply = self.operator.client.send_request(subject.clone(), request).await;
            let reply = self.operator.explain(reply.map_err(Into::into));
            if tokio::time::Instant::now() > until {
                let reply = reply.context("no edge answers: does one run?")?;
                bail!("not answered in time: {}", String::from_utf8_lossy(&reply.payload));
            }
            let told = reply.ok().and_then(|reply| {
                let headers = reply.headers?;
                let status: u16 = headers.get(STATUS)?.as_str().parse().ok()?;
                (status != 503).then(|| (status, headers, reply.payload.to_vec()))
            });
            match told {
                Some(told) => return Ok(told),
                None => tokio::time::sleep(Duration::from_millis(200)).await,
            }
        }
    }
}
