use super::*;
use crate::testing::TestDatabase;

#[tokio::test]
async fn only_a_page_of_entries_is_read_however_many_there_are() -> anyhow::Result<()> {
    let database = TestDatabase::start().await?;
    let overdue = async |after: &str| {
        let values = format!("1, {after}, {MAX_PAGE}");
        let types = "float8, text, text, text, bigint";
        database.rows_read(types, include_str!("../overdue.sql"), &values).await
    };
    assert_eq!(overdue("'', '', ''").await?, 0);
    // The planner still takes it for empty; then it knows.
    let entries = "insert into brigade.projection_backlog
                 select 't' || n % 7, 'cart', 'c' || n, 1, now() - interval '1 minute'
                 from generate_series(1, 20000) n";
    for more in [entries, "analyze brigade.projection_backlog"] {
        database.run(more).await?;
        for after in ["'', '', ''", "'t3', 'cart', 'c5'", "'t5', 'cart', ''"] {
            assert_eq!(overdue(after).await?, MAX_PAGE.cast_unsigned(), "after {after}");
        }
    }
    // All of them, each once.
    let (mut after, mut seen) = (EntryKey::default(), 0);
    loop {
        let entries = load_page(Backlog::Overdue, &database.sql, &after, MAX_PAGE).await?;
        let Some(last) = entries.last() else { break };
        after = last.key();
        seen += entries.len();
    }
    assert_eq!(seen, 20_000);
    Ok(())
}

#[tokio::test]
async fn an_entry_that_was_put_there_again_stands_for_a_later_loss() -> anyhow::Result<()> {
    let database = TestDatabase::start().await?;
    let put = "insert into brigade.heal_backlog
               select 't1', 'cart', 'c' || n, clock_timestamp() from generate_series(1, 3) n
               on conflict (tenant, aggregate, id) do update set at = excluded.at";
    let page = async || {
        load_page(Backlog::Heals, &database.sql, &EntryKey::default(), MAX_HEAL_PAGE).await
    };
    database.run(put).await?;
    let read = page().await?;
    assert_eq!(read.len(), 3);
    database.run(&put.replace("(1, 3)", "(2, 2)")).await?;
    delete_healed(&database.sql, &read.iter().collect::<Vec<_>>()).await?;
    let left: Vec<_> = page().await?.iter().map(|entry| entry.id.clone()).collect();
    assert_eq!(left, ["c2"]);
    Ok(())
}
