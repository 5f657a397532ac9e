//! Requests over core NATS, of which none may be lost when a worker drains.

use std::future::Future;

use async_nats::Subscriber;

/// More digits than the server reads of a limit, so that it takes it for none.
const UNREADABLE_LIMIT: u64 = 10_000_000_000;

/// Ends a subscription without losing a message: the server stops sending, what is on its way
/// arrives, then the subscription ends. `round_trip` asks the server anything and waits.
///
/// `Subscriber::drain` alone forgets the subscription before the server has heard of it, and
/// `unsubscribe` at once. A limit on the number of messages leaves the client listening, while
/// the server, which reads at most nine digits of it, stops. Should a server read more one day,
/// the drain still ends the subscription.
pub async fn stop_taking(requests: &mut Subscriber, round_trip: impl Future<Output = ()>) {
    let _closed = requests.unsubscribe_after(UNREADABLE_LIMIT).await;
    round_trip.await;
    let _closed = requests.drain().await;
}

#[cfg(test)]
mod tests {
    use anyhow::Result;
    use async_nats::Client;
    use futures::StreamExt;

    use super::*;
    use crate::{
        config::StackConfig,
        stack::{Binaries, NatsServer},
    };

    #[tokio::test]
    async fn the_server_stops_sending_while_the_client_still_listens() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let binaries = Binaries::find(&StackConfig::from_env()).await?;
        let server = NatsServer::start(&binaries.nats_server, dir.path(), 0, "").await?;
        let url = format!("127.0.0.1:{}", server.port());
        let (edge, asker) = (async_nats::connect(&url).await?, async_nats::connect(&url).await?);
        let mut requests = edge.queue_subscribe("q.*", "edge".to_owned()).await?;
        // Nobody answers, which is a round trip all the same.
        let round_trip = async |client: &Client| drop(client.request("nobody", "".into()).await);
        round_trip(&edge).await;
        asker.publish("q.before", "".into()).await?;
        round_trip(&asker).await;

        let stopped = stop_taking(&mut requests, async {
            round_trip(&edge).await;
            let refused = asker.request("q.after", "".into()).await.unwrap_err();
            assert_eq!(refused.kind(), async_nats::RequestErrorKind::NoResponders);
        });
        stopped.await;
        assert_eq!(requests.next().await.expect("on its way").subject.as_str(), "q.before");
        assert!(requests.next().await.is_none());
        Ok(())
    }
}
