//! S2: the cart changes while it is paid.

use anyhow::{Context, Result};
use brigade_contracts::{Address, Aggregate};
use futures::future::try_join_all;
use serde_json::{Value, json};

use super::{
    DemoFleet, Promises,
    client::{DemoClient, DemoResponse},
    narration::{mark, say},
};

const UNCHANGED: &str = "A cart that is being paid refuses every change, and says for how long";
const SECRET: &str = "A refusal does not tell whose payment it is";
const SURVIVES: &str = "Binding the gateway's id keeps the lock's deadline";
const TOGETHER: &str = "Paid, unlocked and checked out in one transaction";
const EXACT: &str = "What was charged is what the order costs";
const ONE: &str = "Of 50 who want a cart's lock at once, one gets it";
const KEPT: &str = "A payment whose result is unknown keeps its cart locked";
const ONCE: &str = "A result that the gateway repeats takes effect once";

/// The number of senders that want the lock at once.
const SENDERS: usize = 50;
const RUSHES: u32 = 5;
/// The number of times that a change and a payment meet.
const RACES: u32 = 50;

const STORY: &str = r#"
S2  The cart changes while it is paid
    Ada pays her cart of 25.00 EUR by card. The gateway takes its time, the cart is still open on
    other phones, and Bob adds a tiramisu of 6.00. A naive backend reads the total, charges it and
    marks the cart as paid. brigade locks the cart first: the lock has a deadline and a number, and
    covers every cart of its owner."#;

pub async fn play(fleet: &DemoFleet, promises: &mut Promises) -> Result<()> {
    say(STORY);
    let client = &fleet.client;
    naive(client).await?;
    five_steps(client, promises).await?;
    rush(client, promises).await?;
    unknown(client, promises).await?;
    races(client, promises).await
}

/// A cart of 25.00 EUR; its owner is called like it, so that no other cart is under its lock.
async fn cart(client: &DemoClient, id: &str) -> Result<Address> {
    let cart = client.cart(id)?;
    let open = json!({ "kind": "menu", "owner": id, "currency": "EUR" });
    client.command(&cart, "open", open).await?;
    let pizza = json!({ "item_id": "pizza", "sku": "P1", "name": "Pizza", "unit_price": 1250,
                        "quantity": 2 });
    client.command(&cart, "add_item", pizza).await?;
    Ok(cart)
}

async fn tiramisu(client: &DemoClient, cart: &Address) -> Result<DemoResponse> {
    let item = json!({ "item_id": "tiramisu", "sku": "D1", "name": "Tiramisu", "unit_price": 600,
                       "quantity": 1 });
    client.attempt(cart, "add_item", item).await
}

async fn total(client: &DemoClient, cart: &Address) -> Result<i64> {
    let view = client.poll(cart, None).await?;
    view.body["core"]["total"].as_i64().context("a cart has a total")
}

fn captured(amount: &Value) -> Value {
    json!({ "result": "captured", "transaction_id": "gateway-4711", "amount": amount,
            "currency": "EUR", "occurred_at": "2026-01-02T03:04:05Z" })
}

fn euros(cents: &Value) -> String {
    let cents = cents.as_i64().unwrap_or(0);
    format!("{}.{:02} EUR", cents / 100, cents % 100)
}

/// One line of the story: what was sent, and how it was answered.
fn step(good: bool, what: &str, seen: &DemoResponse, told: &str) {
    say(format!("       {what:<30}{} {} {told}", mark(good), seen.status));
}

async fn naive(client: &DemoClient) -> Result<()> {
    say("\n  1. Without a lock: read the total, charge it, mark the cart as paid.");
    let cart = cart(client, "naive").await?;
    let read = total(client, &cart).await?;
    let added = tiramisu(client, &cart).await?;
    let holds = total(client, &cart).await?;
    say(format!("       the backend reads the total   {}", euros(&json!(read))));
    step(true, "Bob adds a tiramisu", &added, "done");
    say(format!(
        "       the gateway charges           {} {}, and the cart holds {}",
        mark(read == holds),
        euros(&json!(read)),
        euros(&json!(holds))
    ));
    Ok(())
}

async fn five_steps(client: &DemoClient, promises: &mut Promises) -> Result<()> {
    say("\n  2. With brigade, in five steps: lock, refuse, bind, pay, check out.");
    let cart = cart(client, "ada").await?;
    let lock = json!({ "transaction_id": "temporary-1", "method": "card" });
    let locked = client.attempt(&cart, "lock", lock).await?;
    let data = &locked.body["data"];
    let until = data["expires_at"].as_str().unwrap_or("?");
    let told = format!("number {}, {}, until {until}", data["token"], euros(&data["amount"]));
    step(locked.status == 200, "Ada's backend locks the cart", &locked, &told);

    let refused = tiramisu(client, &cart).await?;
    let wait = refused.body["retry_after_ms"].as_u64();
    promises.test(UNCHANGED, refused.status == 423 && wait.is_some());
    promises.test(SECRET, !refused.body.to_string().contains("temporary-1"));
    let message = refused.body["message"].as_str().unwrap_or("?");
    step(refused.status == 423, "Bob adds a tiramisu", &refused, &format!("\"{message}\""));

    let bind = json!({ "token": data["token"], "transaction_id": "gateway-4711" });
    let bound = client.attempt(&cart, "bind_transaction", bind).await?;
    let kept = bound.status == 200 && bound.body["data"]["expires_at"] == data["expires_at"];
    promises.test(SURVIVES, kept);
    step(kept, "the gateway's id is bound", &bound, "the deadline stays");

    let payment = client.address(Aggregate::Payment, "payment-ada")?;
    let begin = json!({ "target": { "cart": "ada" }, "method": "card", "token": data["token"],
                        "transaction_id": "gateway-4711", "order_id": "order-ada" });
    let begun = client.attempt(&payment, "initiate", begin).await?;
    step(begun.status == 201, "the payment begins", &begun, "under the lock that is held");

    let paid = client.attempt(&payment, "record_result", captured(&data["amount"])).await?;
    let changed: Vec<_> = paid.body["effects"].as_array().into_iter().flatten().collect();
    let changed: Vec<_> = changed.iter().filter_map(|effect| effect.as_str()).collect();
    let ended = is_ended(client, &cart).await?;
    let checked_out = paid.body["data"]["check_out"] == "ok";
    promises.test(TOGETHER, paid.status == 200 && checked_out && ended);
    step(
        checked_out,
        "the gateway says: captured",
        &paid,
        &format!("changed {}", changed.join(", ")),
    );
    say(format!("       and so, in one transaction    {} unlocked, checked out", mark(ended)));

    let again = client.attempt(&payment, "record_result", captured(&data["amount"])).await?;
    let code = again.body["code"].as_str().unwrap_or("?");
    promises.test(ONCE, code == "already_captured" && is_exact(client, "ada").await?);
    step(again.status == 200, "it says so again", &again, code);
    Ok(())
}

/// Returns true if nobody holds the cart's lock any more, and it has become its order.
async fn is_ended(client: &DemoClient, cart: &Address) -> Result<bool> {
    let core = client.poll(cart, None).await?.body["core"].take();
    Ok(core["status"] == "checked_out" && core["locked_until"].is_null())
}

/// Returns true if exactly what the order of this cart costs is paid.
async fn is_exact(client: &DemoClient, cart: &str) -> Result<bool> {
    let order = client.address(Aggregate::Order, &format!("order-{cart}"))?;
    let order = client.poll(&order, None).await?.body;
    let paid = &order["payments"]["paid"];
    Ok(*paid == order["core"]["total"] && *paid == order["payments"]["payments"][0]["amount"])
}

async fn rush(client: &DemoClient, promises: &mut Promises) -> Result<()> {
    say(format!("\n  3. {SENDERS} phones lock one cart at the same time, {RUSHES} times."));
    let mut won = Vec::new();
    for round in 1..=RUSHES {
        let cart = cart(client, &format!("rush-{round}")).await?;
        let lock = |n: usize| {
            let payload = json!({ "transaction_id": format!("phone-{n}"), "method": "qr" });
            client.attempt(&cart, "lock", payload)
        };
        let answers = try_join_all((0..SENDERS).map(lock)).await?;
        let count = |status: u16| answers.iter().filter(|seen| seen.status == status).count();
        promises.test(ONE, count(200) == 1 && count(423) == SENDERS - 1);
        won.push(count(200));
    }
    let one = won.iter().all(|won| *won == 1);
    say(format!("       who got it each time          {} {won:?} of {SENDERS}", mark(one)));
    Ok(())
}

async fn unknown(client: &DemoClient, promises: &mut Promises) -> Result<()> {
    say("\n  4. The gateway times out: nobody knows whether it has charged the card.");
    let cart = cart(client, "cleo").await?;
    let payment = client.address(Aggregate::Payment, "payment-cleo")?;
    let begin = json!({ "target": { "cart": "cleo" }, "method": "card", "order_id": "order-cleo" });
    let begun = client.command(&payment, "initiate", begin).await?;
    let data = &begun.body["data"];
    let mut timed_out = captured(&data["amount"]);
    timed_out["result"] = json!("unknown");
    let noted = client.command(&payment, "record_result", timed_out).await?;
    step(true, "the result is unknown", &noted, "noted");
    let change = tiramisu(client, &cart).await?;
    let unlock = json!({ "token": data["token"], "reason": "impatience" });
    let unlock = client.attempt(&cart, "unlock", unlock).await?;
    let cancel = client.attempt(&payment, "cancel", json!({ "reason": "impatience" })).await?;
    for (what, seen, status) in [
        ("Bob adds a tiramisu", &change, 423),
        ("somebody unlocks the cart", &unlock, 409),
        ("somebody cancels the payment", &cancel, 409),
    ] {
        promises.test(KEPT, seen.status == status);
        let message = seen.body["message"].as_str().unwrap_or("?");
        step(seen.status == status, what, seen, &format!("\"{message}\""));
    }
    let paid = client.attempt(&payment, "record_result", captured(&data["amount"])).await?;
    let exact = is_ended(client, &cart).await? && is_exact(client, "cleo").await?;
    promises.test(EXACT, exact);
    step(exact, "it was captured after all", &paid, "unlocked, checked out, charged exactly");
    Ok(())
}

/// A change and a payment at the same moment, as the naive backend and as brigade have it.
async fn races(client: &DemoClient, promises: &mut Promises) -> Result<()> {
    say(format!("\n  5. Bob's tiramisu and Ada's payment at the same moment, {RACES} times each."));
    let (mut naive_wrong, mut wrong, mut refused) = (0, 0, 0);
    for round in 0..RACES {
        let other = cart(client, &format!("naive-{round}")).await?;
        let (read, added) = tokio::join!(total(client, &other), tiramisu(client, &other));
        added?;
        naive_wrong += u32::from(read? != total(client, &other).await?);

        let name = format!("pay-{round}");
        let cart = cart(client, &name).await?;
        let payment = client.address(Aggregate::Payment, &name)?;
        let begin = json!({ "target": { "cart": name }, "method": "card",
                            "order_id": format!("order-{name}") });
        let (begin, add) = (client.command(&payment, "initiate", begin), tiramisu(client, &cart));
        // Each is the first to be sent in half of the rounds.
        let (begun, added) = if round % 2 == 0 {
            tokio::join!(begin, add)
        } else {
            let (added, begun) = tokio::join!(add, begin);
            (begun, added)
        };
        let (begun, added) = (begun?, added?);
        if added.status != 200 {
            let told = added.status == 423 && added.body["retry_after_ms"].is_u64();
            promises.test(UNCHANGED, told);
            refused += 1;
        }
        let amount = &begun.body["data"]["amount"];
        client.command(&payment, "record_result", captured(amount)).await?;
        let exact = is_exact(client, &name).await?;
        promises.test(EXACT, exact);
        wrong += u32::from(!exact);
    }
    say(format!(
        "       naive backend    {} {naive_wrong:>3} of {RACES} charged something else than the cart",
        mark(naive_wrong == 0)
    ));
    say(format!(
        "       brigade          {} {wrong:>3} of {RACES}; {} tiramisus were charged with the rest, {refused} refused",
        mark(wrong == 0),
        RACES - refused
    ));
    Ok(())
}
