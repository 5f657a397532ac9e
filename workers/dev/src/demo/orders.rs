//! S4: a new order shows up seconds late.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use brigade::infra::connect_options;
use brigade_contracts::{
    Address, Aggregate, Body, Door, Part,
    client::{Client, Send},
    key::{self, Bucket},
    permissions,
};
use futures::StreamExt;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::{
    Promises, Stage,
    telling::{mark, millis, say},
};

const SHOWN: &str = "An order that the stream has accepted reaches the kitchen's screen";
const ONCE: &str = "Its outcome is the same on both doors, and it took effect once";

/// Orders placed, one after the other.
const ORDERS: usize = 25;
/// A screen that polls every so often sees an order half of that late, on average.
const POLLING: Duration = Duration::from_secs(5);

const STORY: &str = r#"
S4  A new order shows up seconds late
    The kitchen's screen polls its list every 5 s. Here it watches a subject: the producer publishes
    on the durable door, gets its PubAck, and may go; the row is pushed when it stands in KV."#;

pub async fn play(stage: &mut Stage, promises: &mut Promises) -> Result<()> {
    say(STORY);
    let tenant = stage.stack.tenants.first().context("a tenant")?.clone();
    let connect = async |user: String| {
        let (options, address) = connect_options(&stage.stack.nats_url(&user))?;
        anyhow::Ok(options.connect(address).await?)
    };
    let watcher = connect(permissions::watcher(&tenant).name).await?;
    let producer = connect(permissions::producer(&tenant).name).await?;
    let client = Client::new(producer, Duration::from_secs(10));
    let mut took = Vec::new();
    for n in 0..ORDERS {
        let order = Address::new(tenant.as_str(), Aggregate::Order, &format!("order-{n}"))?;
        let subject = Bucket::ActiveOrders.live(&key::active_order(&order, Part::Core));
        let mut pushes = watcher.subscribe(subject).await?;
        watcher.flush().await?;
        let payload = json!({ "currency": "EUR", "items": [
            { "sku": "P1", "name": "Pizza", "unit_price": 1250, "quantity": 2 } ] });
        let body = Body::decode(Aggregate::Order, "place", payload.to_string().as_bytes())?;
        let send = Send::new(order, body).through(Door::Durable);
        let published = Instant::now();
        let (outcome, row) = tokio::join!(client.send(&send), async {
            let push = timeout(Duration::from_secs(10), pushes.next()).await.ok().flatten()?;
            let shown = published.elapsed();
            Some((shown, serde_json::from_slice::<Value>(&push.payload).ok()?))
        });
        let outcome = outcome?;
        let added = row.as_ref().is_some_and(|(_, row)| row["change"]["kind"] == "added");
        promises.test(SHOWN, added && outcome.status == 201);
        took.extend(row.map(|(shown, _)| shown));
        // The same command again, through the other door.
        let again = client.send(&send.through(Door::Request)).await?;
        let same = serde_json::to_value(&again)? == serde_json::to_value(&outcome)?;
        promises.test(ONCE, same && again.version == Some(1));
    }
    took.sort();
    let median = took.get(took.len() / 2).copied().unwrap_or_default();
    let slowest = took.last().copied().unwrap_or_default();
    say(format!("\n       {ORDERS} orders, from publish to the kitchen's screen"));
    say(format!(
        "       polling every {} s would be  {} {:.1} s late on average, {} s at worst",
        POLLING.as_secs(),
        mark(false),
        POLLING.as_secs_f64() / 2.0,
        POLLING.as_secs()
    ));
    say(format!(
        "       brigade                     {} {} in the middle, {} at worst",
        mark(took.len() == ORDERS),
        millis(median),
        millis(slowest)
    ));
    Ok(())
}
