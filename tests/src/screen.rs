//! The kitchen's screen: a program outside that keeps the active list by what has changed.

use serde_json::Value;

use crate::{Producer, Reply};

/// What a screen shows, and the position that it goes on from.
#[derive(Default)]
pub struct Screen {
    pub rows: Vec<Value>,
    pub resume: String,
    pub etag: String,
    /// How often it was told everything anew.
    pub resets: usize,
}

impl Screen {
    /// Asks for what has changed since it asked last. Returns the changes, newest last.
    ///
    /// # Panics
    /// Where the answer is neither changes nor a reset.
    pub async fn look(&mut self, producer: &Producer) -> Vec<Value> {
        let reply = producer.active_orders(&[("Resume", &self.resume)]).await;
        self.take(&reply)
    }

    /// Takes an answer.
    ///
    /// # Panics
    /// Where it is neither changes nor rows.
    pub fn take(&mut self, reply: &Reply) -> Vec<Value> {
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

    /// The orders, newest first.
    #[must_use]
    pub fn orders(&self) -> Vec<&str> {
        self.rows.iter().map(|row| row["order"].as_str().expect("text")).collect()
    }
}
