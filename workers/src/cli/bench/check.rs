use std::time::Duration;

use anyhow::{Result, ensure};

use super::stage::Stage;

/// Fails unless everything that was answered was also done: the outbox is empty, nothing waits to
/// be shown, each order has its event and its outcome.
///
/// # Errors
/// What is missing.
pub async fn everything_was_done(stage: &Stage) -> Result<()> {
    let mut left = (1_i64, 1_i64);
    for _ in 0..1000 {
        left = sqlx::query_as(
            "select (select count(*) from brigade.outbox), (select count(*) from brigade.unshown)",
        )
        .fetch_one(&stage.sql)
        .await?;
        if left == (0, 0) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
    ensure!(left == (0, 0), "left in outbox and notes: {left:?}");
    let (orders, events, outcomes): (i64, i64, i64) = sqlx::query_as(
        "select (select count(*) from brigade.orders),
                (select count(*) from brigade.events where aggregate = 'order'),
                (select count(*) from brigade.command_inbox where subject like '%.place')",
    )
    .fetch_one(&stage.sql)
    .await?;
    ensure!(
        orders == events && orders == outcomes,
        "{orders} orders, {events} events, {outcomes} outcomes"
    );
    Ok(())
}
