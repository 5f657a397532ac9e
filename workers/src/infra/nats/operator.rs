use anyhow::Context as _;
use async_nats::{Client, Event, ServerError};
use tokio::sync::watch;

use super::NatsCredentials;

/// The connection of a command that an operator runs.
pub struct OperatorConnection {
    pub client: Client,
    user: String,
    /// The first request that the server refused.
    refused: watch::Receiver<Option<String>>,
}

impl OperatorConnection {
    /// Connects with the user of the URL.
    ///
    /// # Errors
    /// If the URL cannot be read or the server cannot be reached.
    pub async fn open(url: &str, name: &str) -> anyhow::Result<Self> {
        let credentials = NatsCredentials::parse(url, name)?;
        let (options, servers) = credentials.options();
        let (refusal, refused) = watch::channel(None);
        let on_event = move |event| {
            if let Event::ServerError(ServerError::Other(text)) = event {
                refusal.send_if_modified(|first| first.is_none() && first.replace(text).is_none());
            }
            std::future::ready(())
        };
        let connecting = options.name(name).event_callback(on_event).connect(servers);
        let client = connecting.await.context("cannot connect to NATS")?;
        Ok(Self { client, user: credentials.user, refused })
    }

    /// Adds the server's refusal to an error, if there is one: such a request has no response.
    ///
    /// # Errors
    /// If `result` is an error.
    pub fn explain<T>(&self, result: anyhow::Result<T>) -> anyhow::Result<T> {
        result.map_err(|error| match &*self.refused.borrow() {
            Some(text) => error.context(format!(
                "the NATS user {} may not do this ({text}), use the operator's",
                self.user
            )),
            None => error,
        })
    }
}
