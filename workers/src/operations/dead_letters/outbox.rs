//! Puts the events of letters back into the outbox.

use anyhow::{Context as _, Result, ensure};
use brigade_contracts::{Address, header, shard_of, subject};
use sqlx::PgConnection;
use uuid::Uuid;

use super::{
    Letter, Number,
    action::{ActionResult, Entry, open},
};

/// Publishes events once more, each under `<event id>.<n>`, where n is its new place in the queue.
/// Returns the numbers of their letters. All of them are events of SQL.
pub(super) async fn put_into_outbox(
    tx: &mut PgConnection,
    entries: &mut [Entry],
) -> Result<Vec<Number>> {
    let mut requested: Vec<(&mut Entry, Address, Uuid)> = Vec::new();
    for entry in open(entries).filter(|entry| entry.is_event()) {
        let (address, id) = event_of(&entry.letter)?;
        requested.push((entry, address, id));
    }
    if requested.is_empty() {
        return Ok(Vec::new());
    }
    let column = |of: fn(&Address) -> String| -> Vec<String> {
        requested.iter().map(|(_, address, _)| of(address)).collect()
    };
    let ids: Vec<Uuid> = requested.iter().map(|(.., id)| *id).collect();
    let shards: Vec<i16> =
        requested.iter().map(|(_, address, _)| i16::from(shard_of(address))).collect();
    let inserted = sqlx::query_scalar!(
        r#"with found as (
               select r.shard, e.seq as event_seq, e.event_id
               from unnest($1::uuid[], $2::smallint[], $3::text[], $4::text[], $5::text[])
                        with ordinality as r (event_id, shard, tenant, aggregate, id, place)
               join brigade.events e on (e.tenant, e.aggregate, e.id, e.event_id)
                   = (r.tenant, r.aggregate, r.id, r.event_id)
               order by r.place
           ), numbered as materialized (
               select *, nextval('brigade.events_seq_seq') as seq from found
           ), inserted as (
               insert into brigade.outbox (shard, seq, event_seq, event_id, republication)
               select shard, seq, event_seq, event_id, (seq % 2147483647)::int from numbered
           )
           select event_id from numbered"#,
        &ids,
        &shards,
        &column(|address| address.tenant.to_string()),
        &column(|address| address.aggregate.to_string()),
        &column(|address| address.id.to_string()),
    )
    .fetch_all(tx)
    .await?;
    let mut published = Vec::new();
    for (entry, _, id) in requested {
        // It was there when it was checked, and no event is ever deleted.
        ensure!(inserted.contains(&id), "the event {id} is gone");
        published.push(entry.number());
        entry.result = Some(ActionResult::Done);
    }
    Ok(published)
}

/// Returns the aggregate and the id of an event.
pub(super) fn event_of(letter: &Letter) -> Result<(Address, Uuid)> {
    let header = |name: &str| letter.headers.get(name).map(|value| value.as_str());
    let (address, _) = subject::parse_event(&letter.subject, header(header::CE_SUBJECT))
        .context("not an event's subject and ce-subject")?;
    let id = header(header::CE_ID).context("the event has no id")?;
    Ok((address, id.parse().context("the event's id is not one of ours")?))
}
