//! Products in SQL. Everybody reads them in this way; only command-handler locks and saves them.

use brigade_contracts::{Address, Aggregate, Currency, MAX_NAME, Money, Text, Timestamp, Token};
use brigade_domain::Product;
use serde::{Deserialize, Serialize};
use sqlx::{PgConnection, PgExecutor};

use super::rows::{head_of_core, keys, parse, to_rows};

/// A row of `brigade.products`.
#[derive(Serialize, Deserialize)]
pub(crate) struct StoredProduct {
    tenant: Token,
    id: Token,
    version: u64,
    updated_at: Timestamp,
    listed: bool,
    name: Text<MAX_NAME>,
    unit_price: Money,
    currency: Currency,
    category: Option<Text<MAX_NAME>>,
    available: bool,
}

/// Loads products without a lock.
///
/// # Errors
/// If Postgres refuses the statement, or command-handler did not write a row.
pub async fn load(
    executor: impl PgExecutor<'_>,
    addresses: impl Iterator<Item = &Address>,
) -> sqlx::Result<Vec<Product>> {
    let (tenants, ids) = keys(Aggregate::Product, addresses);
    let rows = sqlx::query_scalar!(
        r#"select row_to_json(product)::text as "row!"
           from unnest($1::text[], $2::text[]) as requested (tenant, id)
           join brigade.products product using (tenant, id)"#,
        &tenants as _,
        &ids as _,
    )
    .fetch_all(executor)
    .await?;
    rows.iter().map(|row| parse::<StoredProduct>(row).map(Product::from)).collect()
}

/// Saves products that are locked, or new; see [`super::carts::save`].
///
/// # Errors
/// If Postgres refuses the statement.
pub async fn save(connection: &mut PgConnection, products: &[&Product]) -> sqlx::Result<()> {
    if products.is_empty() {
        return Ok(());
    }
    sqlx::query!(
        "insert into brigade.products
             (tenant, id, version, updated_at, listed, name, unit_price, currency, category,
              available)
         select tenant, id, version, updated_at, listed, name, unit_price, currency, category,
                available
         from jsonb_populate_recordset(null::brigade.products, $1)
         on conflict (tenant, id) do update set
             version = excluded.version, updated_at = excluded.updated_at,
             listed = excluded.listed, name = excluded.name, unit_price = excluded.unit_price,
             currency = excluded.currency, category = excluded.category,
             available = excluded.available",
        to_rows::<StoredProduct, _>(products.iter().copied()) as _,
    )
    .execute(connection)
    .await?;
    Ok(())
}

impl From<&Product> for StoredProduct {
    fn from(product: &Product) -> Self {
        Self {
            tenant: product.head.address.tenant.clone(),
            id: product.head.address.id.clone(),
            version: product.head.version,
            updated_at: product.head.at,
            listed: product.listed,
            name: product.name.clone(),
            unit_price: product.unit_price,
            currency: product.currency,
            category: product.category.clone(),
            available: product.available,
        }
    }
}

impl From<StoredProduct> for Product {
    fn from(row: StoredProduct) -> Self {
        let key = (row.tenant, row.id);
        Self {
            head: head_of_core(Aggregate::Product, key, row.version, row.updated_at),
            listed: row.listed,
            name: row.name,
            unit_price: row.unit_price,
            currency: row.currency,
            category: row.category,
            available: row.available,
        }
    }
}
