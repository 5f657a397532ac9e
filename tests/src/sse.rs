//! Server-sent events as a client reads them, and the list of active orders that it keeps by them.
//!
//! The reader is written here because libraries drop what tests look at: comments, which are the
//! heartbeats, and fields that the standard does not know.

use std::{collections::HashMap, io::BufRead, time::Duration};

use reqwest::{Method, Response};
use serde_json::Value;

use crate::{HttpClient, HttpResponse, PATIENCE};

/// An event, its data decoded.
#[derive(Clone, Debug, PartialEq)]
pub struct SseEvent {
    pub kind: String,
    pub data: Value,
}

/// A response of events; its connection is closed when it is dropped.
pub struct SseStream {
    response: Response,
    /// Bytes that are not a whole line yet.
    text: Vec<u8>,
    kind: String,
    data: String,
    /// The value of the last `id` field.
    pub id: String,
    /// The number of comment lines so far.
    pub comments: usize,
    /// The value of the last `retry` field, in milliseconds.
    pub retry: Option<u64>,
}

impl HttpClient {
    /// Opens a stream, such as `active-orders/stream`, from the position `last` on.
    ///
    /// # Errors
    /// The response, if it is no stream.
    ///
    /// # Panics
    /// Where there is no answer.
    pub async fn stream(&self, path: &str, last: Option<&str>) -> Result<SseStream, HttpResponse> {
        self.try_stream(path, last).await.expect("an answer")
    }

    /// Opens a stream of a server that may be down.
    ///
    /// # Errors
    /// Where the connection breaks.
    ///
    /// # Panics
    /// Where the headers are not those of a stream.
    pub async fn try_stream(
        &self,
        path: &str,
        last: Option<&str>,
    ) -> reqwest::Result<Result<SseStream, HttpResponse>> {
        let request = self.request(Method::GET, path).timeout(Duration::from_secs(600));
        let request = last.iter().fold(request, |with, id| with.header("Last-Event-ID", *id));
        let response = request.send().await?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        if status != 200 {
            return Ok(Err(HttpResponse { status, headers, bytes: response.bytes().await? }));
        }
        assert_eq!(headers["content-type"], "text/event-stream");
        assert_eq!(headers["cache-control"], "no-store");
        Ok(Ok(SseStream {
            response,
            text: Vec::new(),
            kind: String::new(),
            data: String::new(),
            id: last.unwrap_or_default().to_owned(),
            comments: 0,
            retry: None,
        }))
    }
}

impl SseStream {
    /// Returns the next event; `None` once the stream has ended or its connection broke.
    ///
    /// # Panics
    /// Where nothing comes, or no JSON.
    pub async fn next(&mut self) -> Option<SseEvent> {
        let (kind, data) = self.next_text().await?;
        Some(SseEvent { kind, data: serde_json::from_str(&data).expect("JSON") })
    }

    /// Returns kind and data of the next event as they came.
    ///
    /// # Panics
    /// Where nothing comes.
    pub async fn next_text(&mut self) -> Option<(String, String)> {
        loop {
            if let Some(event) = self.parse() {
                return Some(event);
            }
            self.more().await?;
        }
    }

    /// Waits for the next comment.
    ///
    /// # Panics
    /// Where none comes, or an event before it.
    pub async fn heartbeat(&mut self) -> Option<()> {
        let before = self.comments;
        loop {
            assert_eq!(self.parse(), None);
            if self.comments > before {
                return Some(());
            }
            self.more().await?;
        }
    }

    async fn more(&mut self) -> Option<()> {
        let chunk = tokio::time::timeout(PATIENCE, self.response.chunk()).await;
        let chunk = chunk.expect("something comes").ok()??;
        self.text.extend_from_slice(&chunk);
        Some(())
    }

    /// Returns an event, if a whole one has come.
    fn parse(&mut self) -> Option<(String, String)> {
        loop {
            let mut line = Vec::new();
            let read = (&self.text[..]).read_until(b'\n', &mut line).expect("from memory");
            line.pop_if(|last| *last == b'\n')?;
            self.text.drain(..read);
            let line = String::from_utf8(line).expect("UTF-8");
            if let Some(event) = self.line(&line) {
                return Some(event);
            }
        }
    }

    fn line(&mut self, line: &str) -> Option<(String, String)> {
        if line.is_empty() {
            let (kind, data) = (std::mem::take(&mut self.kind), std::mem::take(&mut self.data));
            return (!data.is_empty()).then_some((kind, data));
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "" => self.comments += 1,
            "event" => self.kind = value.to_owned(),
            "data" => self.data.push_str(value),
            "id" => self.id = value.to_owned(),
            "retry" => self.retry = value.parse().ok(),
            other => panic!("an unknown field: {other}"),
        }
        None
    }
}

/// The rows that a client has, and the position that it goes on from.
#[derive(Default)]
pub struct StreamedOrders {
    rows: HashMap<String, Value>,
    /// The versions of the parts of each order that ever came.
    seen: HashMap<String, (u64, u64)>,
    pub id: Option<String>,
    pub snapshots: usize,
    pub resets: usize,
    pub changes: usize,
}

impl StreamedOrders {
    /// Applies an event.
    ///
    /// # Panics
    /// Where its kind is unknown, or it is older than one before.
    pub fn apply(&mut self, event: &SseEvent, id: &str) {
        self.id = Some(id.to_owned());
        match event.kind.as_str() {
            "change" => {
                self.changes += 1;
                self.row(&event.data);
            }
            "snapshot" | "reset" => {
                self.snapshots += usize::from(event.kind == "snapshot");
                self.resets += usize::from(event.kind == "reset");
                assert_eq!(event.data["reset"] == true, event.kind == "reset");
                self.rows.clear();
                self.page(event, id);
            }
            "more" => self.page(event, id),
            other => panic!("an unknown event: {other}"),
        }
    }

    fn page(&mut self, event: &SseEvent, id: &str) {
        assert_eq!(event.data["resume"], id, "the body is the query's");
        for row in event.data["rows"].as_array().expect("rows") {
            self.row(row);
        }
    }

    fn row(&mut self, row: &Value) {
        let order = row["order"].as_str().expect("an order").to_owned();
        let version = |of: &Value| of["version"].as_u64().expect("a version");
        let versions = (version(row), version(&row["payment"]));
        let seen = self.seen.insert(order.clone(), versions).unwrap_or_default();
        assert!(seen.0 <= versions.0 && seen.1 <= versions.1, "{order}: {versions:?} < {seen:?}");
        if row["change"]["kind"] == "removed" {
            self.rows.remove(&order);
        } else {
            self.rows.insert(order, row.clone());
        }
    }

    /// Returns the rows, newest first.
    ///
    /// # Panics
    /// Never: all rows have these fields.
    #[must_use]
    pub fn rows(&self) -> Vec<Value> {
        let mut rows: Vec<Value> = self.rows.values().cloned().collect();
        let key = |row: &Value| {
            let text = |field: &str| row[field].as_str().expect("text").to_owned();
            (text("created_at"), text("order"))
        };
        rows.sort_by_key(|row| std::cmp::Reverse(key(row)));
        rows
    }

    /// Returns whether this version of an order's core came, or a later one.
    #[must_use]
    pub fn has(&self, order: &str, version: u64) -> bool {
        self.seen.get(order).is_some_and(|seen| seen.0 >= version)
    }
}
