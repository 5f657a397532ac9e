use std::time::Duration;

use anyhow::Context as _;
use async_nats::{Client, Event, ServerError, jetstream};
use tokio::sync::watch;

use super::{NatsCredentials, NatsOptions, jetstream_context};

/// The user of operators, where no URL says so.
const OPERATOR: &str = "operator";
/// The time that a request to JetStream has.
const JETSTREAM_TIMEOUT: Duration = Duration::from_secs(5);

/// The connection of a command that an operator runs.
pub struct OperatorConnection {
    pub client: Client,
    pub jetstream: jetstream::Context,
    user: String,
    /// The first request that the server refused.
    refused: watch::Receiver<Option<String>>,
}

impl OperatorConnection {
    /// Connects with the user of the URL.
    ///
    /// # Errors
    /// If the URL or a file cannot be read, or the server cannot be reached.
    pub async fn open(url: &str, options: &NatsOptions, name: &str) -> anyhow::Result<Self> {
        let user = options.user.clone().or_else(|| Some(OPERATOR.to_owned()));
        let with_user = NatsOptions { user, ..options.clone() };
        let credentials = NatsCredentials::parse(url, name, &with_user)?;
        credentials.check()?;
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
        let api = credentials.options.api_prefix();
        let jetstream = jetstream_context(client.clone(), api, JETSTREAM_TIMEOUT);
        Ok(Self { client, jetstream, user: credentials.user, refused })
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
