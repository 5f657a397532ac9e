use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::json;

use super::fleet::BenchFleet;

/// Events in the outbox that no command caused.
pub struct Fill<'a> {
    pub events: u32,
    pub aggregates: u32,
    /// The aggregate's kind, and the event's name.
    pub kind: (&'a str, &'a str),
    pub payload: String,
    /// The number of shards of the relay; 0: the rows are in a shard that no relay reads.
    pub shards: u8,
    /// The prefix of ids; `c`, `o` and `k` are those of commands.
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
    /// If Postgres refuses a statement.
    pub async fn commit(self, fleet: &BenchFleet) -> Result<()> {
        sqlx::query(include_str!("outbox.sql"))
            .bind(i64::from(self.events))
            .bind(i64::from(self.aggregates))
            .bind(self.kind.0)
            .bind(self.kind.1)
            .bind(self.payload)
            .bind(i32::from(self.shards))
            .bind(self.prefix)
            .execute(&fleet.sql)
            .await?;
        Ok(())
    }
}

/// Waits until the relay has emptied the outbox.
///
/// # Errors
/// If Postgres refuses a statement.
pub async fn drained(fleet: &BenchFleet) -> Result<()> {
    let until = Instant::now() + Duration::from_secs(300);
    while sqlx::query_scalar::<_, bool>("select exists (select from brigade.outbox)")
        .fetch_one(&fleet.sql)
        .await?
    {
        anyhow::ensure!(Instant::now() < until, "the relay does not empty the outbox");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}
