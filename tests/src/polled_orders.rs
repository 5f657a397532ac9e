//! The list of active orders as a client keeps it by polling.

use serde_json::Value;

use crate::{Producer, Reply};

/// The rows that a client has, and the position that it goes on from.
#[derive(Default)]
pub struct PolledOrders {
    pub rows: Vec<Value>,
    pub resume: String,
    pub etag: String,
    /// The number of answers that replaced all rows because the position was too old.
    pub resets: usize,
}

impl PolledOrders {
    /// Queries the changes since the last query and applies them. Returns them, newest last.
    ///
    /// # Panics
    /// Where the answer holds neither changes nor rows.
    pub async fn poll(&mut self, producer: &Producer) -> Vec<Value> {
        let reply = producer.active_orders(&[("Resume", &self.resume)]).await;
        self.apply(&reply)
    }

    /// Applies an answer. Returns the changes, newest last.
    ///
    /// # Panics
    /// Where it holds neither changes nor rows.
    pub fn apply(&mut self, reply: &Reply) -> Vec<Value> {
        assert_eq!(reply.status, 200, "{}", reply.body());
        let body = reply.body();
        self.resume = body["resume"].as_str().expect("a position").to_owned();
        self.etag = reply.etag.clone().expect("an ETag");
        if let Some(rows) = body["rows"].as_array() {
            self.resets += usize::from(body["reset"] == true);
            self.rows.clone_from(rows);
            return Vec::new();
        }
        let changes = body["changes"].as_array().expect("changes").clone();
        for row in &changes {
            self.rows.retain(|known| known["order"] != row["order"]);
            if row["change"]["kind"] != "removed" {
                self.rows.push(row.clone());
            }
        }
        let key = |row: &Value| {
            let text = |field: &str| row[field].as_str().expect("text").to_owned();
            (text("created_at"), text("order"))
        };
        self.rows.sort_by_key(|row| std::cmp::Reverse(key(row)));
        changes
    }

    /// Returns the ids of the orders, newest first.
    #[must_use]
    pub fn orders(&self) -> Vec<&str> {
        self.rows.iter().map(|row| row["order"].as_str().expect("text")).collect()
    }
}
