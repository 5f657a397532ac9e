use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result};
use async_nats::{Client, Message};
use futures::StreamExt;
use tokio::{sync::oneshot, task::AbortHandle, time::timeout};

/// Longer than anything takes that comes at all.
const PATIENCE: Duration = Duration::from_secs(60);

/// One subscription for all who wait for a message on a subject of their own.
pub struct Waiters {
    waiting: Arc<Mutex<HashMap<String, Vec<oneshot::Sender<Message>>>>>,
    listening: AbortHandle,
}

impl Waiters {
    /// # Errors
    /// If the connection is closed.
    pub async fn listen(client: &Client, subjects: &str) -> Result<Self> {
        let mut messages = client.subscribe(subjects.to_owned()).await?;
        client.flush().await?;
        let waiting: Arc<Mutex<HashMap<String, Vec<oneshot::Sender<Message>>>>> = Arc::default();
        let told = waiting.clone();
        let listening = tokio::spawn(async move {
            while let Some(message) = messages.next().await {
                let found = {
                    let mut waiting = told.lock().unwrap_or_else(PoisonError::into_inner);
                    waiting.remove(message.subject.as_str())
                };
                for waiter in found.into_iter().flatten() {
                    // One that has given up is of no interest.
                    let _ = waiter.send(message.clone());
                }
            }
        });
        Ok(Self { waiting, listening: listening.abort_handle() })
    }

    /// The next message on a subject, from this call on, not from the first poll on.
    pub fn next(&self, subject: String) -> impl Future<Output = Result<Message>> + use<> {
        let (tell, told) = oneshot::channel();
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.entry(subject.clone()).or_default().push(tell);
        async move {
            let message = timeout(PATIENCE, told).await;
            message.with_context(|| format!("nothing on {subject}"))?.context("not listening")
        }
    }
}

impl Drop for Waiters {
    fn drop(&mut self) {
        self.listening.abort();
    }
}
