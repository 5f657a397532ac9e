//! Events that the stream refuses by themselves.

use anyhow::Result;
use async_nats::jetstream::{self, message::StreamMessage};
use sqlx::AssertSqlSafe;

use super::stand::{Stand, address, eventually, in_turns};
use brigade_contracts::shard_of;

use crate::infra::FailPoints;

/// Too large for the stream.
const FOR_THE_STREAM: usize = 950_000;
/// Too large for the server, so the client does not even send it.
const FOR_THE_SERVER: usize = 1_200_000;

/// Makes the payload of a cart's event as large as this, or its kind unknown.
async fn spoil(stand: &Stand, cart: usize, version: i64, bytes: Option<usize>) -> Result<()> {
    let to = match bytes {
        Some(n) => format!(r#"payload = ('{{"data":"' || repeat('x', {n}) || '"}}')::json"#),
        None => "aggregate = 'planet'".to_owned(),
    };
    let update = format!("update brigade.events set {to} where id = $1 and version = $2");
    sqlx::query(AssertSqlSafe(update))
        .bind(address(cart).id.as_str())
        .bind(version)
        .execute(&stand.sql)
        .await?;
    Ok(())
}

async fn letters(stand: &Stand) -> Result<Vec<StreamMessage>> {
    let stream = jetstream::new(stand.client.clone()).get_stream("DLQ").await?;
    let mut letters = Vec::new();
    for sequence in 1..=stream.cached_info().state.last_sequence {
        letters.push(stream.get_raw_message(sequence).await?);
    }
    Ok(letters)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_the_stream_refuses_is_parked_and_holds_up_nobody() -> Result<()> {
    let stand = Stand::start().await?;
    stand.commit(&in_turns(400, 40)).await?;
    spoil(&stand, 0, 3, Some(FOR_THE_STREAM)).await?;
    spoil(&stand, 1, 3, Some(FOR_THE_SERVER)).await?;
    spoil(&stand, 2, 3, None).await?;
    let relay = stand.relay(FailPoints::default());
    stand.outbox_is_empty().await?;

    let stored = stand.stored().await?;
    assert_eq!(stored.len(), 397);
    for cart in 0..40 {
        let name = address(cart).id.to_string();
        let versions: Vec<u64> =
            stored.iter().filter(|e| e.cart == name).map(|e| e.version).collect();
        let all: Vec<u64> = (1..=10).filter(|version| cart > 2 || *version != 3).collect();
        assert_eq!(versions, all, "{name}");
    }
    let letters = letters(&stand).await?;
    let of = |cart: usize| {
        let id = address(cart).id;
        letters
            .iter()
            .find(|l| l.headers.get("ce-subject").is_some_and(|s| s.as_str() == id.as_str()))
    };
    assert_eq!(letters.len(), 3);
    assert!(of(0).unwrap().payload.len() > FOR_THE_STREAM);
    assert!(of(1).unwrap().payload.is_empty());
    for cart in 0..3 {
        let letter = of(cart).unwrap();
        let header = |name: &str| letter.headers.get(name).map(|value| value.as_str());
        assert!(letter.subject.starts_with("dlq.outbox-relay."), "{}", letter.subject);
        assert_eq!(header("Aggregate-Version"), Some("3"));
        assert!(header("Origin-Subject").unwrap().starts_with("evt.t1."));
        assert!(header("Dead-Reason").is_some() && header("ce-id").is_some());
    }
    assert_eq!((stand.metrics().events_parked.get(), stand.metrics().relayed.get()), (3, 397));
    assert_eq!(relay.health.ready(), Ok(()));
    relay.stop().await;
    Ok(())
}

/// Where no dead letter can be stored, what is refused waits, and what is behind it does not.
#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_parked_stays_in_the_outbox() -> Result<()> {
    let stand = Stand::start().await?;
    let js = jetstream::new(stand.client.clone());
    let letters = js.get_stream("DLQ").await?.cached_info().config.clone();
    js.delete_stream("DLQ").await?;
    stand.commit(&in_turns(100, 10)).await?;
    spoil(&stand, 0, 3, Some(FOR_THE_STREAM)).await?;
    let relay = stand.relay(FailPoints::default());
    eventually("all others", async || Ok(stand.count("brigade.outbox").await? == 1)).await?;
    assert_eq!(stand.stored().await?.len(), 99);
    eventually("the alarm", async || Ok(relay.health.ready().is_err())).await?;
    js.create_stream(letters).await?;
    stand.outbox_is_empty().await?;
    assert_eq!(self::letters(&stand).await?.len(), 1);
    relay.stop().await;
    Ok(())
}

/// A batch is bounded by its bytes before it is read: at most one event beyond them is fetched.
#[tokio::test(flavor = "multi_thread")]
async fn a_batch_fetches_no_more_bytes_than_it_takes() -> Result<()> {
    const EVENT: i64 = 250_000;
    let stand = Stand::start().await?;
    stand.commit(&in_turns(64, 4)).await?;
    let large = format!(
        r#"update brigade.events set payload = ('"' || repeat('x', {EVENT}) || '"')::json"#
    );
    sqlx::query(AssertSqlSafe(large)).execute(&stand.sql).await?;
    let read = "select count(*), count(*) filter (where \"payload?\" is not null),
                       sum(octet_length(\"payload?\"))::bigint from (";
    let read = format!("{read}{}) rows", include_str!("../read.sql"));
    let (rows, taken, bytes): (i64, i64, i64) = sqlx::query_as(AssertSqlSafe(read))
        .bind((0..16_i16).collect::<Vec<_>>())
        .bind(vec![0_i64; 16])
        .bind(500_i64)
        .bind(1_000_000_i64)
        .fetch_one(&stand.sql)
        .await?;
    assert_eq!((rows, taken, bytes), (64, 4, 4 * (EVENT + 2)));
    // All of it comes all the same.
    let relay = stand.relay(FailPoints::default());
    stand.outbox_is_empty().await?;
    assert_eq!(stand.check().await?, 0);
    relay.stop().await;
    Ok(())
}

/// One event in each shard, with another behind it.
#[tokio::test(flavor = "multi_thread")]
async fn no_shard_stands_still_for_what_is_refused() -> Result<()> {
    let stand = Stand::start().await?;
    let carts: Vec<usize> = (0..16)
        .map(|shard| (0..).find(|cart| shard_of(&address(*cart)) == shard).unwrap())
        .collect();
    let relay = stand.relay(FailPoints::default());
    stand.outbox_is_empty().await?;
    let mut tx = stand.sql.begin().await?;
    super::stand::insert(&mut tx, &carts.iter().map(|c| (*c, 1)).collect::<Vec<_>>()).await?;
    let spoil = format!(
        r#"update brigade.events set payload = ('{{"data":"' || repeat('x', {FOR_THE_SERVER})
           || '"}}')::json"#
    );
    sqlx::query(AssertSqlSafe(spoil)).execute(&mut *tx).await?;
    tx.commit().await?;
    stand.commit(&carts.iter().map(|cart| (*cart, 2)).collect::<Vec<_>>()).await?;
    stand.outbox_is_empty().await?;
    assert!(stand.stored().await?.iter().all(|event| event.version == 2));
    assert_eq!((stand.stored().await?.len(), letters(&stand).await?.len()), (16, 16));
    eventually("readiness", async || Ok(relay.health.ready().is_ok())).await?;
    relay.stop().await;
    Ok(())
}
