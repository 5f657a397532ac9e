//! A relay on real servers.

mod fixture;
mod parking;

use std::time::Instant;

use anyhow::{Context as _, Result};
use async_nats::HeaderMap;
use brigade_contracts::{
    Address, Aggregate, Era, Timestamp, Token, event::Envelope, header, subject,
};
use futures::{StreamExt, stream};
use sqlx::{Connection, PgConnection};
use uuid::Uuid;

use self::fixture::{PAYLOAD, RelayFixture, address, in_rotation, insert};
use super::{
    batch::{self, ShardRead},
    publish::{OutboxEvent, publish},
    watermark::{RelaySessions, Settling, Watermark},
};
use crate::{
    infra::FailPoints,
    testing::{until, until_ready},
};

#[tokio::test(flavor = "multi_thread")]
async fn every_event_arrives_once_and_in_order() -> Result<()> {
    let fixture = RelayFixture::start().await?;
    let relay = fixture.relay(FailPoints::default());
    let events = in_rotation(3_000, 300);
    for some in events.chunks(37) {
        fixture.commit(some).await?;
    }
    fixture.outbox_is_empty().await;
    assert_eq!(fixture.check().await?, 0);
    assert_eq!(fixture.metrics().relayed.get(), 3_000);
    assert_eq!(relay.health.ready(), Ok(()));

    let stored = fixture.stored().await?;
    let message = &stored[0].message;
    let headers = message.headers.as_ref().unwrap();
    let value = |name: &str| headers.get(name).map(|value| value.as_str().to_owned());
    let event: (Uuid, String) =
        sqlx::query_as("select event_id, payload::text from brigade.events where id = $1")
            .bind(&stored[0].cart)
            .fetch_one(&fixture.sql)
            .await?;
    assert_eq!(value(header::MSG_ID), Some(event.0.to_string()));
    assert_eq!(value(header::CE_TYPE).as_deref(), Some("brigade.cart.item_added"));
    assert_eq!(message.payload, event.1);
    relay.stop().await;
    assert_eq!(fixture.shares().await?, [0; 0], "the leases are given back");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_stream_knows_is_recognised_and_the_rest_follows_in_order() -> Result<()> {
    let fixture = RelayFixture::start().await?;
    let relay = fixture.relay(FailPoints::default());
    fixture.commit(&in_rotation(200, 20)).await?;
    fixture.outbox_is_empty().await;
    // As after a lost acknowledgement; and one repetition that repair asks for.
    let mut tx = fixture.sql.begin().await?;
    let again = "insert into brigade.outbox (shard, seq, event_seq, event_id, republication)
                 select 5, nextval('brigade.events_seq_seq'), seq, event_id, $1
                 from brigade.events where version > $2 order by seq";
    sqlx::query(again).bind(0).bind(5).execute(&mut *tx).await?;
    let last = format!("{again} limit 1");
    sqlx::query(sqlx::AssertSqlSafe(last)).bind(1).bind(9).execute(&mut *tx).await?;
    tx.commit().await?;
    let more: Vec<_> = in_rotation(400, 20).split_off(200);
    fixture.commit(&more).await?;
    fixture.outbox_is_empty().await;
    assert_eq!(fixture.check().await?, 1);
    assert!(fixture.metrics().batches.with_label_values(&["one_by_one"]).get() > 0);
    relay.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_lag_is_that_of_events_which_are_published_for_the_first_time() -> Result<()> {
    let fixture = RelayFixture::start().await?;
    let relay = fixture.relay(FailPoints::default());
    let metrics = fixture.metrics();
    let relayed = async |events: u64| {
        until(&format!("{events} events to be relayed"), || async {
            (metrics.relayed.get() == events).then_some(())
        })
        .await;
    };
    let measured = || metrics.lag_seconds.with_label_values::<&str>(&[]).get_sample_count();
    fixture.commit(&in_rotation(20, 2)).await?;
    relayed(20).await;
    let before = measured();
    assert!(before > 0);
    // Under the same ids, and as repetitions that repair asks for.
    for again in [0, 1] {
        sqlx::query(
            "insert into brigade.outbox (shard, seq, event_seq, event_id, republication)
             select 5, nextval('brigade.events_seq_seq'), seq, event_id, $1
             from brigade.events order by seq",
        )
        .bind(again)
        .execute(&fixture.sql)
        .await?;
    }
    relayed(60).await;
    assert_eq!(measured(), before);
    relay.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_was_sent_in_part_leaves_nothing() -> Result<()> {
    let fixture = RelayFixture::start().await?;
    fixture.commit(&in_rotation(20, 2)).await?;
    let ids: Vec<(Uuid, String)> =
        sqlx::query_as("select event_id, id from brigade.events order by seq limit 10")
            .fetch_all(&fixture.sql)
            .await?;
    for (place, (event_id, cart)) in ids.iter().enumerate() {
        let mut headers = HeaderMap::new();
        headers.insert(header::MSG_ID, event_id.to_string());
        headers.insert(header::BATCH_ID, "killed");
        headers.insert(header::BATCH_SEQUENCE, (place + 1).to_string());
        let cart = Address::new("t1", Aggregate::Cart, cart)?;
        let subject = subject::event(&cart, &Token::new("item_added")?);
        fixture.client.publish_with_headers(subject, headers, "{}".into()).await?;
    }
    fixture.client.flush().await?;
    let relay = fixture.relay(FailPoints::default());
    fixture.outbox_is_empty().await;
    assert_eq!(fixture.check().await?, 0);
    relay.stop().await;
    Ok(())
}

#[cfg(feature = "fail-points")]
#[tokio::test(flavor = "multi_thread")]
async fn a_relay_killed_before_it_deletes_is_repeated_by_another() -> Result<()> {
    let fixture = RelayFixture::start().await?;
    let fail = FailPoints::default();
    let place = fail.arm("outbox-relay.after_publish");
    let killed = fixture.relay(fail);
    fixture.commit(&in_rotation(1_000, 50)).await?;
    place.reached().await;
    killed.kill().await;
    assert!(!fixture.stored().await?.is_empty());
    assert_eq!(fixture.count("brigade.outbox").await?, 1_000);
    let relay = fixture.relay(FailPoints::default());
    fixture.outbox_is_empty().await;
    assert_eq!(fixture.check().await?, 0);
    relay.stop().await;
    Ok(())
}

#[cfg(feature = "fail-points")]
#[tokio::test(flavor = "multi_thread")]
async fn a_drain_finishes_the_batch_in_hand_and_no_other() -> Result<()> {
    let fixture = RelayFixture::start().await?;
    let fail = FailPoints::default();
    let place = fail.arm("outbox-relay.after_publish");
    let relay = fixture.relay(fail.clone());
    fixture.commit(&[(0, 1), (0, 2)]).await?;
    place.reached().await;
    relay.drain();
    fixture.commit(&[(0, 3)]).await?;
    fail.disarm("outbox-relay.after_publish");
    relay.stop().await;
    assert_eq!(fixture.count("brigade.outbox").await?, 1);
    assert_eq!(fixture.shares().await?, [0; 0]);
    let relay = fixture.relay(FailPoints::default());
    fixture.outbox_is_empty().await;
    assert_eq!(fixture.check().await?, 0);
    relay.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn relays_share_the_shards_and_take_over_those_of_the_dead() -> Result<()> {
    let fixture = RelayFixture::start().await?;
    let relays = [(); 3].map(|()| fixture.relay(FailPoints::default()));
    let shared = async |shares: &[i64]| {
        until("fair shares", || async { (fixture.shares().await.ok()? == shares).then_some(()) })
            .await;
    };
    shared(&[4, 6, 6]).await;
    let [killed, drained, last] = relays;
    fixture.commit(&in_rotation(2_000, 100)).await?;
    killed.kill().await;
    shared(&[8, 8]).await;
    fixture.commit(&in_rotation(4_000, 100).split_off(2_000)).await?;
    drained.stop().await;
    shared(&[16]).await;
    fixture.commit(&in_rotation(6_000, 100).split_off(4_000)).await?;
    fixture.outbox_is_empty().await;
    fixture.check().await?;
    last.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_that_are_killed_lose_no_event() -> Result<()> {
    let mut fixture = RelayFixture::start_with_own_postgres().await?;
    let relay = fixture.relay(FailPoints::default());
    let events = in_rotation(9_000, 100);
    fixture.commit(&events[..3_000]).await?;
    fixture.nats.kill().await;
    fixture.commit(&events[3_000..6_000]).await?;
    fixture.nats.restart().await?;
    fixture.postgres_mut().kill().await;
    fixture.postgres_mut().restart().await?;
    fixture.until_count("brigade.events", 6_000).await;
    fixture.commit(&events[6_000..]).await?;
    fixture.outbox_is_empty().await;
    // Killed in the middle, it may have repeated what the stream had forgotten that it knew.
    fixture.check().await?;
    until_ready(&relay).await;
    relay.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watermark_does_not_outlive_a_crash_of_postgres() -> Result<()> {
    watermark_and_crash(RelayFixture::start_with_own_postgres().await?).await
}

/// The relay's own connections are to the pooler, and do not break.
#[tokio::test(flavor = "multi_thread")]
async fn nor_does_it_behind_a_pooler() -> Result<()> {
    let mut fixture = RelayFixture::start_with_own_postgres().await?;
    if !fixture.database.put_pgbouncer_between().await? {
        return Ok(());
    }
    watermark_and_crash(fixture).await
}

/// A crash may give numbers out again that were drawn before it and not flushed.
async fn watermark_and_crash(mut fixture: RelayFixture) -> Result<()> {
    let cx = fixture.context().await?;
    let sessions = RelaySessions::new(&cx);
    sqlx::query("select setval('brigade.events_seq_seq', 1000000)").execute(&fixture.sql).await?;
    let settled = settle(&sessions).await?;
    let watermarks = all(settled);
    assert!(
        batch::relay(&cx, &fixture.metrics(), &sessions, &watermarks, settled)
            .await
            .failure
            .is_none()
    );
    fixture.postgres_mut().kill().await;
    fixture.postgres_mut().restart().await?;
    let back = "select setval('brigade.events_seq_seq', 1)";
    until("Postgres", || async { sqlx::query(back).execute(&fixture.sql).await.ok() }).await;
    fixture.commit(&in_rotation(100, 10)).await?;
    until("all of them", || async {
        batch::relay(&cx, &fixture.metrics(), &sessions, &watermarks, settled).await;
        (fixture.count("brigade.outbox").await.ok()? == 0).then_some(())
    })
    .await;
    assert_eq!(fixture.check().await?, 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_is_committed_late_is_not_passed_over() -> Result<()> {
    let fixture = RelayFixture::start().await?;
    let sessions = RelaySessions::new(&fixture.context().await?);
    let relay = fixture.relay(FailPoints::default());
    let mut late = PgConnection::connect(&fixture.database.url).await?;
    let mut tx = late.begin().await?;
    insert(&mut tx, &[(1_000, 1), (1_001, 1), (1_000, 2)]).await?;
    for some in in_rotation(2_000, 50).chunks(100) {
        fixture.commit(some).await?;
        let settling = Settling::default().step(&sessions).await?;
        assert!(matches!(settling, Settling::Awaiting(..)), "{settling:?}");
    }
    until("all but the late ones", || async {
        (fixture.stored().await.ok()?.len() == 2_000).then_some(())
    })
    .await;
    fixture.outbox_is_empty().await;
    tx.commit().await?;
    fixture.commit(&[(1_000, 3)]).await?;
    fixture.outbox_is_empty().await;
    assert_eq!(fixture.check().await?, 0);
    assert!(settle(&sessions).await?.seq >= 2_004);
    relay.stop().await;
    Ok(())
}

/// Nothing can be removed from the index meanwhile; reads must not meet it all the same.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_relayed_is_not_read_again_while_somebody_holds_back_xmin() -> Result<()> {
    let fixture = RelayFixture::start().await?;
    let mut holder = PgConnection::connect(&fixture.database.url).await?;
    let mut tx = holder.begin().await?;
    hold_back_xmin(&mut tx).await?;
    let cx = fixture.context().await?;
    let sessions = RelaySessions::new(&cx);
    fixture.commit(&in_rotation(20_000, 200)).await?;
    let mut watermarks = all(Watermark::default());
    while fixture.count("brigade.outbox").await? > 0 {
        let settled = settle(&sessions).await?;
        for left in
            batch::relay(&cx, &fixture.metrics(), &sessions, &watermarks, settled).await.shards
        {
            watermarks[left.shard as usize].watermark.raise(left.watermark);
        }
    }
    fixture.commit(&in_rotation(20_400, 200).split_off(20_000)).await?;
    let from_the_start = touched(&fixture, &all(Watermark::default())).await?;
    let from_the_watermarks = touched(&fixture, &watermarks).await?;
    // For each of the 16 shards the way down the index and some pages of the table.
    assert!(from_the_watermarks <= 16 * 10, "{from_the_watermarks} pages");
    assert!(from_the_start > 10 * from_the_watermarks, "{from_the_start} pages");
    drop(tx);
    Ok(())
}

fn all(watermark: Watermark) -> Vec<ShardRead> {
    (0..16).map(|shard| ShardRead { shard, watermark }).collect()
}

async fn hold_back_xmin(connection: &mut PgConnection) -> Result<()> {
    sqlx::query("set transaction isolation level repeatable read")
        .execute(&mut *connection)
        .await?;
    sqlx::query("select count(*) from brigade.outbox").execute(connection).await?;
    Ok(())
}

async fn settle(sessions: &RelaySessions) -> Result<Watermark> {
    let mut settling = Settling::default();
    loop {
        settling = settling.step(sessions).await?;
        if let Settling::Settled(mark) = settling {
            return Ok(mark);
        }
    }
}

/// Counts the pages of the outbox and its index that the relay's read touches.
async fn touched(fixture: &RelayFixture, due: &[ShardRead]) -> Result<i64> {
    let sql = fixture.context().await?.postgres;
    let server: String =
        sqlx::query_scalar("select brigade.server_incarnation()").fetch_one(&sql).await?;
    let explain = format!("explain (analyze, buffers, format json) {}", include_str!("read.sql"));
    let plan: serde_json::Value = sqlx::query_scalar(sqlx::AssertSqlSafe(explain))
        .bind(due.iter().map(|due| due.shard).collect::<Vec<_>>())
        .bind(due.iter().map(|due| due.watermark.seq).collect::<Vec<_>>())
        .bind(31_i64)
        .bind(i64::MAX)
        .bind(server)
        .fetch_one(&sql)
        .await?;
    let mut nodes = vec![&plan[0]["Plan"]];
    while let Some(node) = nodes.pop() {
        if node["Relation Name"] == "outbox" {
            let pages = |kind: &str| node[kind].as_i64();
            return pages("Shared Hit Blocks")
                .zip(pages("Shared Read Blocks"))
                .map(|(hit, read)| hit + read)
                .context("pages");
        }
        nodes.extend(node["Plans"].as_array().into_iter().flatten());
    }
    anyhow::bail!("the outbox is not in {plan}")
}

/// Measures events a second, beside what the server takes of the same messages in the same minute.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
async fn measure() -> Result<()> {
    for hold in [false, true] {
        let fixture = RelayFixture::start().await?;
        let mut holder = PgConnection::connect(&fixture.database.url).await?;
        let mut tx = holder.begin().await?;
        if hold {
            hold_back_xmin(&mut tx).await?;
        }
        for some in in_rotation(100_000, 5_000).chunks(5_000) {
            fixture.commit(some).await?;
        }
        let began = Instant::now();
        let relay = fixture.relay(FailPoints::default());
        fixture.outbox_is_empty().await;
        let relayed = 100_000.0 / began.elapsed().as_secs_f64();
        assert_eq!(fixture.check().await?, 0);
        relay.stop().await;
        drop(tx);

        let (cx, events) = (fixture.context().await?, by_hand(100_000));
        let began = Instant::now();
        let publish = stream::iter(events.chunks(1_000).map(|some| publish(&cx.nats, some)));
        let done = publish.buffer_unordered(2).map(|published| published.done).concat().await;
        let ceiling = 100_000.0 / began.elapsed().as_secs_f64();
        assert!(done.into_iter().all(|done| done));
        println!("relayed {relayed:.0}/s, the server takes {ceiling:.0}/s, xmin held: {hold}");
    }
    Ok(())
}

fn by_hand(n: usize) -> Vec<OutboxEvent> {
    let envelope = |i: usize| Envelope {
        event_id: Uuid::now_v7().to_string(),
        republication: 0,
        address: address(i % 5_000),
        name: Token::new("item_added").expect("a token"),
        version: 1,
        at: Timestamp::from(time::OffsetDateTime::UNIX_EPOCH),
        command_id: Token::new("k1").expect("a token"),
        actor: None,
        via: None,
        traceparent: None,
    };
    let event = |i| OutboxEvent {
        shard: 0,
        seq: 0,
        event_seq: 0,
        era: Era::FIRST,
        envelope: envelope(i),
        payload: PAYLOAD.into(),
    };
    (0..n).map(event).collect()
}
