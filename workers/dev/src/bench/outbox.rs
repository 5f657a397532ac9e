use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::json;

use super::stage::Stage;

/// Events in the outbox that no command caused.
pub struct Fill<'a> {
    pub events: u32,
    pub aggregates: u32,
    /// The aggregate's kind, and the event's name.
    pub kind: (&'a str, &'a str),
    pub payload: String,
    /// Of the relay's; 0: the rows are in a shard that no relay looks at.
    pub shards: u8,
    /// What ids begin with; `c`, `o` and `k` are those of commands.
    pub prefix: &'a str,
}

impl Fill<'_> {
    /// Usual events of carts that nobody asks for.
    pub fn usual(events: u32) -> Self {
        Self {
            events,
            aggregates: 20_000,
            kind: ("cart", "item_added"),
            payload: json!({ "data": "x".repeat(260), "after": { "ended": false } }).to_string(),
            shards: brigade_contracts::SHARDS,
            prefix: "raw",
        }
    }

    /// Commits them, all at once.
    ///
    /// # Errors
    /// Those of Postgres.
    pub async fn commit(self, stage: &Stage) -> Result<()> {
        sqlx::query(include_str!("outbox.sql"))
            .bind(i64::from(self.events))
            .bind(i64::from(self.aggregates))
            .bind(self.kind.0)
            .bind(self.kind.1)
            .bind(self.payload)
            .bind(i32::from(self.shards))
            .bind(self.prefix)
            .execute(&stage.sql)
            .await?;
        Ok(())
    }
}

/// Waits until the relay has emptied the outbox.
///
/// # Errors
/// Those of Postgres.
pub async fn drained(stage: &Stage) -> Result<()> {
    let until = Instant::now() + Duration::from_secs(300);
    while sqlx::query_scalar::<_, bool>("select exists (select from brigade.outbox)")
        .fetch_one(&stage.sql)
        .await?
    {
        anyhow::ensure!(Instant::now() < until, "the relay does not empty the outbox");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}
