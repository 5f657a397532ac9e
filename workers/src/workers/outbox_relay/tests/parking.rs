//! Events that the stream refuses by themselves.

use anyhow::Result;
use async_nats::jetstream::{self, message::StreamMessage};
use brigade_contracts::shard_of;
use sqlx::AssertSqlSafe;

use super::fixture::{RelayFixture, address, in_rotation};
use crate::{
    infra::FailPoints,
    testing::{until, until_ready},
};

/// Too large for the stream.
const FOR_THE_STREAM: usize = 950_000;
/// Too large for the server, so the client does not even send it.
const FOR_THE_SERVER: usize = 1_200_000;

/// Makes the payload of a cart's event as large as this, or its kind unknown.
async fn spoil(
    fixture: &RelayFixture,
    cart: usize,
    version: i64,
    bytes: Option<usize>,
) -> Result<()> {
    let to = match bytes {
        Some(n) => format!(r#"payload = ('{{"data":"' || repeat('x', {n}) || '"}}')::json"#),
        None => "aggregate = 'planet'".to_owned(),
    };
    let update = format!("update brigade.events set {to} where id = $1 and version = $2");
    sqlx::query(AssertSqlSafe(update))
        .bind(address(cart).id.as_str())
        .bind(version)
        .execute(&fixture.sql)
        .await?;
    Ok(())
}

async fn letters(fixture: &RelayFixture) -> Result<Vec<StreamMessage>> {
    let stream = jetstream::new(fixture.client.clone()).get_stream("DLQ").await?;
    let mut letters = Vec::new();
    for sequence in 1..=stream.cached_info().state.last_sequence {
        letters.push(stream.get_raw_message(sequence).await?);
    }
    Ok(letters)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_the_stream_refuses_is_parked_and_holds_up_nobody() -> Result<()> {
    let fixture = RelayFixture::start().await?;
    fixture.commit(&in_rotation(400, 40)).await?;
    spoil(&fixture, 0, 3, Some(FOR_THE_STREAM)).await?;
    spoil(&fixture, 1, 3, Some(FOR_THE_SERVER)).await?;
    spoil(&fixture, 2, 3, None).await?;
    let relay = fixture.relay(FailPoints::default());
    fixture.outbox_is_empty().await;

    let stored = fixture.stored().await?;
    assert_eq!(stored.len(), 397);
    for cart in 0..40 {
        let name = address(cart).id.to_string();
        let versions: Vec<u64> =
            stored.iter().filter(|e| e.cart == name).map(|e| e.version).collect();
        let all: Vec<u64> = (1..=10).filter(|version| cart > 2 || *version != 3).collect();
        assert_eq!(versions, all, "{name}");
    }
    let letters = letters(&fixture).await?;
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
    assert_eq!((fixture.metrics().events_parked.get(), fixture.metrics().relayed.get()), (3, 397));
    assert_eq!(relay.health.ready(), Ok(()));
    relay.stop().await;
    Ok(())
}

/// A refused event whose dead letter cannot be stored waits, and those behind it do not.
#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_parked_stays_in_the_outbox() -> Result<()> {
    let fixture = RelayFixture::start().await?;
    let js = jetstream::new(fixture.client.clone());
    let letters = js.get_stream("DLQ").await?.cached_info().config.clone();
    js.delete_stream("DLQ").await?;
    fixture.commit(&in_rotation(100, 10)).await?;
    spoil(&fixture, 0, 3, Some(FOR_THE_STREAM)).await?;
    let relay = fixture.relay(FailPoints::default());
    fixture.until_count("brigade.outbox", 1).await;
    assert_eq!(fixture.stored().await?.len(), 99);
    until("the alarm", || async { relay.health.ready().err() }).await;
    js.create_stream(letters).await?;
    fixture.outbox_is_empty().await;
    assert_eq!(self::letters(&fixture).await?.len(), 1);
    relay.stop().await;
    Ok(())
}

/// A batch is bounded by its bytes before it is read: at most one event beyond them is fetched.
#[tokio::test(flavor = "multi_thread")]
async fn a_batch_fetches_no_more_bytes_than_it_takes() -> Result<()> {
    const EVENT: i64 = 250_000;
    let fixture = RelayFixture::start().await?;
    fixture.commit(&in_rotation(64, 4)).await?;
    let large = format!(
        r#"update brigade.events set payload = ('"' || repeat('x', {EVENT}) || '"')::json"#
    );
    sqlx::query(AssertSqlSafe(large)).execute(&fixture.sql).await?;
    let read = "select count(*), count(*) filter (where \"payload?\" is not null),
                       sum(octet_length(\"payload?\"))::bigint from (";
    let read = format!("{read}{}) rows", include_str!("../read.sql"));
    let server: String =
        sqlx::query_scalar("select brigade.server_incarnation()").fetch_one(&fixture.sql).await?;
    let (rows, taken, bytes): (i64, i64, i64) = sqlx::query_as(AssertSqlSafe(read))
        .bind((0..16_i16).collect::<Vec<_>>())
        .bind(vec![0_i64; 16])
        .bind(500_i64)
        .bind(1_000_000_i64)
        .bind(server)
        .fetch_one(&fixture.sql)
        .await?;
    assert_eq!((rows, taken, bytes), (64, 4, 4 * (EVENT + 2)));
    // All of it comes all the same.
    let relay = fixture.relay(FailPoints::default());
    fixture.outbox_is_empty().await;
    assert_eq!(fixture.check().await?, 0);
    relay.stop().await;
    Ok(())
}

/// One event in each shard, with another behind it.
#[tokio::test(flavor = "multi_thread")]
async fn no_shard_stands_still_for_what_is_refused() -> Result<()> {
    let fixture = RelayFixture::start().await?;
    let carts: Vec<usize> = (0..16)
        .map(|shard| (0..).find(|cart| shard_of(&address(*cart)) == shard).unwrap())
        .collect();
    let relay = fixture.relay(FailPoints::default());
    fixture.outbox_is_empty().await;
    let mut tx = fixture.sql.begin().await?;
    super::fixture::insert(&mut tx, &carts.iter().map(|c| (*c, 1)).collect::<Vec<_>>()).await?;
    let spoil = format!(
        r#"update brigade.events set payload = ('{{"data":"' || repeat('x', {FOR_THE_SERVER})
           || '"}}')::json"#
    );
    sqlx::query(AssertSqlSafe(spoil)).execute(&mut *tx).await?;
    tx.commit().await?;
    fixture.commit(&carts.iter().map(|cart| (*cart, 2)).collect::<Vec<_>>()).await?;
    fixture.outbox_is_empty().await;
    assert!(fixture.stored().await?.iter().all(|event| event.version == 2));
    assert_eq!((fixture.stored().await?.len(), letters(&fixture).await?.len()), (16, 16));
    until_ready(&relay).await;
    relay.stop().await;
    Ok(())
}
