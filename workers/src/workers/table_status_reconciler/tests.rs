//! The rows that a check reads, however many there are.

use super::*;
use crate::testing::TestDatabase;

/// 20,000 tables of 10 tenants, each with a party that has ordered three times and with parties
/// before it, one of which was made to leave without paying.
const TABLES: &str = "
    insert into brigade.tables
    select 't' || n % 10, 'tb' || n, 1, now(), 'x', 4, 'occupied', 'open' || n
    from generate_series(1, 20000) n;
    insert into brigade.turns
    select 't' || n % 10, 'open' || n, 1, now(), 'tb' || n, 2, now(), null, null
    from generate_series(1, 20000) n;
    insert into brigade.turns
    select 't' || n % 10, 'closed' || n || '-' || k, 1, now(), 'tb' || n, 2,
           now() - make_interval(days => k), now(), case when k = 1 then 'forced' else 'paid' end
    from generate_series(1, 20000) n, generate_series(1, 2) k;
    insert into brigade.orders (tenant, id, version, updated_at, parts, parts_at, status, currency,
                                table_id, turn_id, items, total, created_at)
    select 't' || n % 10, 'o' || n || '-' || k, 1, now(), '{}', '{}', 'placed', 'EUR', 'tb' || n,
           case when k = 0 then 'closed' || n || '-1' else 'open' || n end, '[]', 100, now()
    from generate_series(1, 20000) n, generate_series(0, 3) k;";
/// The most rows of a table: its own, its turn and two orders.
const EACH: u64 = 4;

async fn read(database: &TestDatabase, tables: &[String], orders: &[&str]) -> anyhow::Result<u64> {
    let array = |ids: Vec<String>| format!("'{{{}}}'", ids.join(","));
    let tenants = array(tables.iter().map(|id| tenant_of(id)).collect());
    let of_orders = array(orders.iter().map(|id| tenant_of(id)).collect());
    let orders = array(orders.iter().map(|id| (*id).to_owned()).collect());
    let values = format!("{tenants}, {}, {of_orders}, {orders}", array(tables.to_vec()));
    let types = "text[], text[], text[], text[]";
    database.rows_read(types, include_str!("findings.sql"), &values).await
}

/// `tb17` and `o17-2` are of `t7`.
fn tenant_of(id: &str) -> String {
    let number = id.trim_start_matches(char::is_alphabetic).split('-').next().unwrap();
    format!("t{}", &number[number.len() - 1..])
}

#[tokio::test]
async fn a_hint_costs_a_few_rows_and_a_page_its_own_however_many_parties_there_are()
-> anyhow::Result<()> {
    let database = TestDatabase::start().await?;
    // Planned for empty tables at first.
    assert_eq!(read(&database, &[], &[]).await?, 0);
    database.run(TABLES).await?;
    for more in ["select", "analyze"] {
        database.run(more).await?;
        let hints = ["tb17".to_owned(), "tb18".to_owned()];
        let hinted = read(&database, &hints, &["o19-1", "o17-2"]).await?;
        assert!((10..=2 + 3 * EACH).contains(&hinted), "{hinted} rows");
        let page = page(&mut *database.sql.acquire().await?, &Default::default(), 500).await?;
        let ids: Vec<String> = page.into_iter().map(|(_, id)| id).collect();
        assert_eq!(ids.len(), 500);
        let paged = read(&database, &ids, &[]).await?;
        assert!((1500..=500 * EACH).contains(&paged), "{paged} rows");
    }
    let page = "select tenant, id from brigade.tables where (tenant, id) > ($1, $2)
                order by tenant, id limit $3";
    let keys = database.rows_read("text, text, bigint", page, "'t5', 'tb5', 500").await?;
    assert_eq!(keys, 500);
    // All are free: only the latest party of each counts, and those that were made to leave cost
    // nothing.
    database
        .run(
            "update brigade.turns set closed_at = now(), close_reason = 'forced'
              where closed_at is null;
              update brigade.tables set status = 'available', open_turn_id = null; analyze",
        )
        .await?;
    let ids: Vec<String> = (1..=500).map(|n| format!("tb{n}")).collect();
    let free = read(&database, &ids, &[]).await?;
    assert!((1000..=500 * 2).contains(&free), "{free} rows");
    Ok(())
}

#[tokio::test]
async fn a_scan_reaches_every_table_once() -> anyhow::Result<()> {
    let database = TestDatabase::start().await?;
    database.run(TABLES).await?;
    let mut connection = database.sql.acquire().await?;
    let (mut after, mut seen) = (Default::default(), BTreeSet::new());
    loop {
        let page = page(&mut connection, &after, 3000).await?;
        let Some(last) = page.last() else { break };
        after = last.clone();
        for key in page {
            assert!(seen.insert(key));
        }
    }
    assert_eq!(seen.len(), 20_000);
    Ok(())
}
