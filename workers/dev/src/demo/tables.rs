//! S3: the payment succeeds, and the table stays occupied.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use brigade_contracts::{Address, Aggregate, WorkerName};
use serde_json::{Value, json};
use sqlx::Connection;
use tokio::time::{sleep, timeout};

use super::{
    DemoFleet, Promises,
    client::{DemoClient, DemoResponse},
    narration::{mark, say},
};

const TOGETHER: &str = "Payment, order, turn and table change together, or not at all";
const REPAIRED: &str = "A ghost table that a faulty program made is repaired within 3 s";
/// Longer than any repair takes that still counts as one.
const LIMIT: Duration = Duration::from_secs(10);

const STORY: &str = r"
S3  The payment succeeds, and the table stays occupied
    A naive client pays, then marks the order as paid, then frees the table: three requests. Whatever
    fails between two of them stays as it is: a ghost table, which nobody can be seated at. brigade
    has one command, and one transaction.";

pub async fn play(fleet: &mut DemoFleet, promises: &mut Promises) -> Result<()> {
    say(STORY);
    naive(fleet).await?;
    table_update_fails(fleet, promises).await?;
    later_step_fails(fleet, promises).await?;
    result_is_unknown(fleet, promises).await?;
    ghost(fleet, promises).await
}

/// The state of a table: whether a party sits there, and whether the order and the payment are
/// done.
struct Evening {
    table: Address,
    order: Address,
    payment: Address,
}

impl Evening {
    /// A party that has ordered for 25.00 EUR and begins to pay.
    async fn begin(client: &DemoClient, id: &str) -> Result<Self> {
        let table = client.address(Aggregate::Table, id)?;
        let order = client.address(Aggregate::Order, &format!("dinner-{id}"))?;
        let payment = client.address(Aggregate::Payment, &format!("bill-{id}"))?;
        client.command(&table, "register", json!({ "label": id, "seats": 4 })).await?;
        client.command(&table, "open_turn", json!({ "turn_id": format!("party-{id}") })).await?;
        let place = json!({ "table_id": id, "currency": "EUR", "items": [
            { "sku": "P1", "name": "Pizza", "unit_price": 1250, "quantity": 2 } ] });
        client.command(&order, "place", place).await?;
        let begin = json!({ "target": { "order": order.id }, "method": "card" });
        client.command(&payment, "initiate", begin).await?;
        Ok(Self { table, order, payment })
    }

    fn result(result: &str) -> Value {
        json!({ "result": result, "transaction_id": "gateway-1", "amount": 2500, "currency": "EUR",
                "occurred_at": "2026-01-02T03:04:05Z" })
    }

    /// The payment's status, whether the order is paid, the table's status.
    async fn stands(&self, client: &DemoClient) -> Result<(String, bool, String)> {
        let payment = client.poll(&self.payment, None).await?.body;
        let order = client.poll(&self.order, None).await?.body;
        let table = client.poll(&self.table, None).await?.body;
        let text = |value: &Value| value.as_str().unwrap_or("?").to_owned();
        let paid = !order["payments"]["paid_at"].is_null();
        Ok((text(&payment["core"]["status"]), paid, text(&table["core"]["status"])))
    }
}

/// One line of the story, with how everything stands; true if all of it or nothing is done.
async fn show(what: &str, evening: &Evening, client: &DemoClient) -> Result<(bool, bool)> {
    let (payment, paid, table) = evening.stands(client).await?;
    let done = payment == "captured" && paid && table == "available";
    let nothing = payment != "captured" && !paid && table == "occupied";
    let order = if paid { "paid" } else { "unpaid" };
    let good = mark(done || nothing);
    say(format!("       {what:<42}{good} payment {payment}, order {order}, table {table}"));
    Ok((done || nothing, done))
}

/// The naive client's three requests, each a transaction of its own, the third of which fails.
async fn naive(fleet: &DemoFleet) -> Result<()> {
    say("\n  1. Three requests of a naive client; the database ends the third (its time is up).");
    let sql = &fleet.client.sql;
    let begin = "create table public.naive (thing text primary key, status text);
                 insert into public.naive values ('payment', 'initiated'), ('order', 'unpaid'),
                                                 ('table', 'occupied')";
    sqlx::raw_sql(begin).execute(sql).await?;
    for (thing, status) in [("payment", "captured"), ("order", "paid")] {
        sqlx::query("update public.naive set status = $1 where thing = $2")
            .bind(status)
            .bind(thing)
            .execute(sql)
            .await?;
    }
    let mut busy = sql.acquire().await?;
    let mut holds = busy.begin().await?;
    sqlx::query("select from public.naive where thing = 'table' for update")
        .execute(&mut *holds)
        .await?;
    let mut third = sql.begin().await?;
    sqlx::query("set local lock_timeout = '200ms'").execute(&mut *third).await?;
    let freed = sqlx::query("update public.naive set status = 'available' where thing = 'table'")
        .execute(&mut *third)
        .await;
    drop((third, holds));
    let left: Vec<(String, String)> =
        sqlx::query_as("select thing, status from public.naive order by status")
            .fetch_all(sql)
            .await?;
    let left: Vec<String> =
        left.iter().map(|(thing, status)| format!("{thing} {status}")).collect();
    let what = format!("       {:<42}{} {}", "left for ever", mark(freed.is_ok()), left.join(", "));
    say(what);
    Ok(())
}

/// Somebody holds the table's row: the transaction of the capture cannot change it.
async fn table_update_fails(fleet: &DemoFleet, promises: &mut Promises) -> Result<()> {
    say("\n  2. The same with brigade: another program holds the table's row for a while.");
    let client = &fleet.client;
    let evening = Evening::begin(client, "window").await?;
    let mut connection = client.sql.acquire().await?;
    let mut holds = connection.begin().await?;
    sqlx::query("select from brigade.tables where id = 'window' for update")
        .execute(&mut *holds)
        .await?;
    let capture = client.attempt(&evening.payment, "record_result", Evening::result("captured"));
    let free = async {
        sleep(Duration::from_millis(700)).await;
        let during = show("while the row is held", &evening, client).await;
        holds.rollback().await?;
        during
    };
    let (captured, during) = tokio::join!(capture, free);
    promises.test(TOGETHER, during?.0);
    let captured = insist(client, &evening, captured?).await?;
    let after = show("when the capture was answered", &evening, client).await?;
    promises.test(TOGETHER, after.1);
    say(format!(
        "       {:<42}{} {}",
        "one outcome, with each effect",
        mark(captured.status == 200),
        effects(&captured)
    ));
    Ok(())
}

/// As a program does that was told to repeat.
async fn insist(
    client: &DemoClient,
    evening: &Evening,
    mut seen: DemoResponse,
) -> Result<DemoResponse> {
    while seen.status == 503 {
        seen =
            client.attempt(&evening.payment, "record_result", Evening::result("captured")).await?;
    }
    Ok(seen)
}

fn effects(seen: &DemoResponse) -> String {
    let effects = seen.body["effects"].as_array().into_iter().flatten();
    effects.filter_map(Value::as_str).collect::<Vec<_>>().join(", ")
}

/// command-handler is killed with the capture in hand.
async fn later_step_fails(fleet: &mut DemoFleet, promises: &mut Promises) -> Result<()> {
    say("\n  3. kill -9 of command-handler with the captures of 20 tables in hand, durable door.");
    let mut evenings = Vec::new();
    for n in 0..20 {
        evenings.push(Evening::begin(&fleet.client, &format!("terrace-{n}")).await?);
    }
    for evening in &evenings {
        fleet.client.store(&evening.payment, "record_result", Evening::result("captured")).await?;
    }
    fleet.worker(WorkerName::CommandHandler)?.kill().await;
    let (mut all, mut none, mut torn) = (0, 0, 0);
    for evening in &evenings {
        let (payment, paid, table) = evening.stands(&fleet.client).await?;
        match (payment.as_str(), paid, table.as_str()) {
            ("captured", true, "available") => all += 1,
            ("initiated", false, "occupied") => none += 1,
            _ => torn += 1,
        }
    }
    promises.test(TOGETHER, torn == 0);
    say(format!(
        "       {:<42}{} {all} freed, {none} untouched, {torn} in between",
        "after the kill",
        mark(torn == 0)
    ));
    fleet.start_again(WorkerName::CommandHandler).await?;
    let freed = async {
        for evening in &evenings {
            while evening.stands(&fleet.client).await?.2 != "available" {
                sleep(Duration::from_millis(20)).await;
            }
        }
        anyhow::Ok(())
    };
    let freed = timeout(LIMIT, freed).await.is_ok_and(|freed| freed.is_ok());
    promises.test(TOGETHER, freed);
    say(format!(
        "       {:<42}{} all 20 tables are free",
        "started again, nobody repeats anything",
        mark(freed)
    ));
    Ok(())
}

/// The network times out: nobody knows whether the card was charged.
async fn result_is_unknown(fleet: &DemoFleet, promises: &mut Promises) -> Result<()> {
    say("\n  4. The gateway times out, and tells later that the card was charged.");
    let client = &fleet.client;
    let evening = Evening::begin(client, "bar").await?;
    client.command(&evening.payment, "record_result", Evening::result("unknown")).await?;
    promises.test(TOGETHER, show("the result is unknown", &evening, client).await?.0);
    client.command(&evening.payment, "record_result", Evening::result("captured")).await?;
    promises.test(TOGETHER, show("the gateway says: captured", &evening, client).await?.1);
    Ok(())
}

async fn ghost(fleet: &DemoFleet, promises: &mut Promises) -> Result<()> {
    say("\n  5. A faulty program writes `occupied` into SQL, past all commands: a ghost.");
    let client = &fleet.client;
    let table = client.address(Aggregate::Table, "bar")?;
    sqlx::query("update brigade.tables set status = 'occupied' where id = 'bar'")
        .execute(&client.sql)
        .await?;
    let made = Instant::now();
    let repaired = async {
        loop {
            let event: Option<Value> = sqlx::query_scalar(
                "select payload -> 'data' from brigade.events
                 where id = 'bar' and type = 'reconciled'",
            )
            .fetch_optional(&client.sql)
            .await?;
            if let Some(data) = event {
                return anyhow::Ok(data);
            }
            sleep(Duration::from_millis(20)).await;
        }
    };
    let data = timeout(LIMIT, repaired).await.context("the ghost stayed")??;
    let took = made.elapsed();
    let status = client.poll(&table, None).await?.body["core"]["status"].take();
    let held = took < Duration::from_secs(3) && status == "available";
    promises.test(REPAIRED, held);
    let finding = data["finding"].as_str().unwrap_or("?");
    let cause = data["cause"].as_str().unwrap_or("?");
    say(format!(
        "       {:<42}{} after {:.1} s: {finding}, \"{cause}\"",
        "found, repaired and written down",
        mark(held),
        took.as_secs_f64()
    ));
    Ok(())
}
