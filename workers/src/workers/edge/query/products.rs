//! Queries of the price list of a tenant, page by page in the order of skus.
//!
//! A small statement confirms what is on a page: a digest of its products and their versions, which
//! is the ETag. The body of exactly this digest comes from memory, else from SQL.

use std::{collections::HashMap, sync::Arc};

use brigade_contracts::{
    Era, Token,
    product::{ListedProduct, ProductPage},
    query::{ProductsHeaders, ProductsPage},
};
use bytes::Bytes;
use moka::sync::Cache;
use sqlx::PgConnection;

use super::{
    batch_loader::BatchLoader,
    database::ReadDatabase,
    loader::{Loader, key_at},
    reply::QueryReply,
};
use crate::store::rows::parse;

/// The size of the cache of bodies, in bytes. A page of 200 products has some 40 KB.
const MAX_CACHE_BYTES: u64 = 16 * 1024 * 1024;

/// Answers queries of price lists.
pub struct Products {
    era: Era,
    digests: BatchLoader<DigestLoader>,
    pages: BatchLoader<ProductPageLoader>,
    /// Bodies by page, each with its digest.
    memory: Cache<ProductPageKey, Arc<EncodedProductPage>>,
}

/// A tenant, and a page of its list.
pub type ProductPageKey = (Token, ProductsPage);

/// A page as it is answered, and the digest that names it.
#[derive(Debug)]
pub struct EncodedProductPage {
    digest: String,
    /// The sku behind which the next page begins.
    next: Option<Token>,
    body: Bytes,
}

impl Products {
    /// Reads price lists from this database.
    #[must_use]
    pub fn new(database: &Arc<ReadDatabase>, era: Era) -> Self {
        let weight = |(_, page): &ProductPageKey, body: &Arc<EncodedProductPage>| {
            let bytes = size_of_val(page) + body.digest.len() + body.body.len();
            u32::try_from(bytes).unwrap_or(u32::MAX)
        };
        Self {
            era,
            digests: BatchLoader::new(database, DigestLoader),
            pages: BatchLoader::new(database, ProductPageLoader),
            memory: Cache::builder().max_capacity(MAX_CACHE_BYTES).weigher(weight).build(),
        }
    }

    /// Returns a page of a tenant's list, or `304` if the client has it.
    ///
    /// # Errors
    /// `503 unconfirmed`.
    pub async fn get(
        &self,
        tenant: Token,
        headers: &ProductsHeaders,
    ) -> Result<QueryReply, QueryReply> {
        let key = (tenant, headers.page.clone());
        let digest = self.digests.load(key.clone()).await?.ok_or_else(QueryReply::unconfirmed)?;
        if headers.if_none_match.as_ref().is_some_and(|known| known.has_tag(&self.tag(&digest))) {
            return Ok(QueryReply::not_modified(self.etag(&digest)));
        }
        if let Some(page) = self.memory.get(&key).filter(|page| page.digest == digest) {
            return Ok(self.reply(&page));
        }
        let page = self.pages.load(key.clone()).await?.ok_or_else(QueryReply::unconfirmed)?;
        self.memory.insert(key, page.clone());
        Ok(self.reply(&page))
    }

    fn reply(&self, page: &EncodedProductPage) -> QueryReply {
        let next = page.next.as_ref().map(Token::to_string);
        let etag = Some(self.etag(&page.digest));
        QueryReply { etag, next, ..QueryReply::ok(page.body.clone()) }
    }

    fn etag(&self, digest: &str) -> String {
        format!("\"{}\"", self.tag(digest))
    }

    /// Returns the tag of a digest: versions are of an era.
    fn tag(&self, digest: &str) -> String {
        if self.era.is_first() { digest.to_owned() } else { format!("{digest}-{}", self.era) }
    }
}

/// The columns of a statement that loads pages.
struct ProductPageColumns<'a> {
    tenants: Vec<&'a str>,
    after: Vec<&'a str>,
    limits: Vec<i64>,
}

impl<'a> ProductPageColumns<'a> {
    /// One product more than a page has is asked for: it tells that there is a next one.
    fn new(keys: &'a [ProductPageKey]) -> Self {
        Self {
            tenants: keys.iter().map(|(tenant, _)| tenant.as_str()).collect(),
            // The empty text is before every sku.
            after: keys
                .iter()
                .map(|(_, page)| page.after.as_ref().map_or("", Token::as_str))
                .collect(),
            limits: keys.iter().map(|(_, page)| i64::from(page.limit) + 1).collect(),
        }
    }
}

/// Loads the digests of pages, and of whether there is more behind each.
pub struct DigestLoader;

impl Loader for DigestLoader {
    type Key = ProductPageKey;
    type Row = String;
    const CONCURRENCY: usize = 2;
    const MAX_KEYS: usize = 64;

    async fn load(
        &self,
        connection: &mut PgConnection,
        era: Era,
        keys: &[ProductPageKey],
    ) -> sqlx::Result<HashMap<ProductPageKey, String>> {
        let ProductPageColumns { tenants, after, limits } = ProductPageColumns::new(keys);
        let rows = sqlx::query!(
            r#"select place as "place!", digest as "digest!"
               from brigade.read_product_digests($1, $2, $3, $4)"#,
            era.as_sql(),
            &tenants as _,
            &after as _,
            &limits,
        )
        .fetch_all(connection)
        .await?;
        let keyed = |place, digest| Ok((key_at(keys, place)?.clone(), digest));
        rows.into_iter().map(|row| keyed(row.place, row.digest)).collect()
    }
}

/// Loads pages with their digests.
pub struct ProductPageLoader;

impl Loader for ProductPageLoader {
    type Key = ProductPageKey;
    type Row = Arc<EncodedProductPage>;
    /// Rare: a page is read once after each change of it.
    const CONCURRENCY: usize = 1;
    /// A page may have 400 products.
    const MAX_KEYS: usize = 16;

    async fn load(
        &self,
        connection: &mut PgConnection,
        era: Era,
        keys: &[ProductPageKey],
    ) -> sqlx::Result<HashMap<ProductPageKey, Arc<EncodedProductPage>>> {
        let ProductPageColumns { tenants, after, limits } = ProductPageColumns::new(keys);
        let rows = sqlx::query!(
            r#"select place as "place!", digest as "digest!", products as "products!"
               from brigade.read_product_pages($1, $2, $3, $4)"#,
            era.as_sql(),
            &tenants as _,
            &after as _,
            &limits,
        )
        .fetch_all(connection)
        .await?;
        let keyed = |place, digest, products: &str| {
            let key = key_at(keys, place)?;
            let mut products: Vec<ListedProduct> = parse(products)?;
            let limit = usize::from(key.1.limit);
            let after = (products.len() > limit).then(|| products[limit - 1].sku.clone());
            products.truncate(limit);
            let next = after.clone();
            let body = serde_json::to_vec(&ProductPage { products, after });
            let body = body.map_err(|error| sqlx::Error::Decode(error.into()))?;
            Ok((key.clone(), Arc::new(EncodedProductPage { digest, next, body: body.into() })))
        };
        rows.into_iter().map(|row| keyed(row.place, row.digest, &row.products)).collect()
    }
}
