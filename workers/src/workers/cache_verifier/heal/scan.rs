//! Finds the aggregates that are healed without a walk over whole tables.

use brigade_contracts::{Address, Aggregate, key::REMOVED_TTL};

use crate::{
    infra::{Context, postgres::bounded},
    store::rows::keys,
};

/// Returns the orders whose rows in `active_orders` have not expired: those that are active, and of
/// each tenant those that ended a short while ago. Nothing of the history is read.
///
/// # Errors
/// If Postgres refuses the statement.
pub async fn listed_orders(cx: &Context) -> sqlx::Result<Vec<Address>> {
    let rows = bounded(&cx.postgres, async |connection| {
        sqlx::query_file!(
            "src/workers/cache_verifier/heal/listed_orders.sql",
            REMOVED_TTL.as_secs_f64()
        )
        .fetch_all(&mut **connection)
        .await
    })
    .await?;
    let address = |tenant: &str, id: &str| Address::new(tenant, Aggregate::Order, id).ok();
    Ok(rows.iter().filter_map(|row| address(&row.tenant, &row.id)).collect())
}

/// Returns the locks of the owners of the carts among these aggregates. A lock has no events of its
/// own, but none changes without its cart; one that was claimed left a row with the cart's session.
///
/// # Errors
/// If Postgres refuses a statement.
pub async fn locks_of_carts(cx: &Context, aggregates: &[Address]) -> sqlx::Result<Vec<Address>> {
    let (tenants, ids) = keys(Aggregate::Cart, aggregates.iter());
    let rows = bounded(&cx.postgres, async |connection| {
        sqlx::query!(
            "select distinct lock.tenant, lock.owner
             from unnest($1::text[], $2::text[]) as changed (tenant, id)
             join brigade.carts cart using (tenant, id)
             cross join lateral (values (cart.owner), (cart.session)) as holder (owner)
             join brigade.cart_locks lock
                  on (lock.tenant, lock.owner) = (cart.tenant, holder.owner)",
            &tenants as _,
            &ids as _,
        )
        .fetch_all(&mut **connection)
        .await
    })
    .await?;
    let address = |tenant: &str, owner: &str| Address::new(tenant, Aggregate::Lock, owner).ok();
    Ok(rows.iter().filter_map(|row| address(&row.tenant, &row.owner)).collect())
}

#[cfg(test)]
mod tests {
    use crate::testing::TestDatabase;

    #[tokio::test]
    async fn listed_orders_are_found_without_the_history() -> anyhow::Result<()> {
        let database = TestDatabase::start().await?;
        let listed =
            async || database.rows_read("float8", include_str!("listed_orders.sql"), "600").await;
        let order = |id: &str, status: &str, ended: &str, count: u32| {
            format!(
                "insert into brigade.orders (tenant, id, version, updated_at, parts, parts_at,
                                             status, currency, items, total, created_at)
                 select 't' || n % 5, '{id}' || n, 1, now() - interval '{ended}', '{{}}', '{{}}',
                        '{status}', 'EUR', '[]', 1, now() - interval '2 hours'
                 from generate_series(1, {count}) n;"
            )
        };
        // The planner takes it for empty at first.
        assert_eq!(listed().await?, 0);
        database.run(&order("old", "completed", "1 hour", 10_000)).await?;
        database.run(&order("left", "cancelled", "1 minute", 10)).await?;
        database.run(&order("active", "placed", "1 hour", 50)).await?;
        for more in ["select", "analyze brigade.orders"] {
            database.run(more).await?;
            let read = listed().await?;
            assert!((60..80).contains(&read), "{read} rows, of 5 tenants");
        }
        let rows = sqlx::query_file!("src/workers/cache_verifier/heal/listed_orders.sql", 600.0);
        let rows = rows.fetch_all(&database.sql).await?;
        assert_eq!(rows.len(), 60);
        assert!(rows.iter().all(|row| !row.id.starts_with("old")));
        Ok(())
    }
}
