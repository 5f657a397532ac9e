//! A restaurant to look at: products, tables, users, and parties that come, order and pay.

use std::time::Duration;

use anyhow::Result;
use brigade_contracts::{Address, Aggregate, client::new_command_id};
use rand::seq::index;
use serde_json::{Value, json};
use tokio::{
    task::JoinSet,
    time::{MissedTickBehavior, interval, sleep},
};

use crate::{LocalStack, demo::client::DemoClient};

/// Sku, name, price in cents, category.
const PRODUCTS: [(&str, &str, i64, &str); 10] = [
    ("P-1", "Pizza Margherita", 950, "Mains"),
    ("P-2", "Pizza Diavola", 1_150, "Mains"),
    ("L-1", "Lasagne", 1_250, "Mains"),
    ("S-1", "Tomato soup", 550, "Starters"),
    ("S-2", "Bruschetta", 480, "Starters"),
    ("S-3", "Green salad", 620, "Starters"),
    ("D-1", "Tiramisu", 590, "Desserts"),
    ("D-2", "Panna cotta", 520, "Desserts"),
    ("W-1", "Water", 290, "Drinks"),
    ("W-2", "House wine", 640, "Drinks"),
];
const TABLES: usize = 12;
/// The users, with their roles. Their emails are `<id>@example.org`.
const USERS: [(&str, &[&str]); 3] =
    [("mia", &["customer", "manager"]), ("sam", &["customer", "staff"]), ("ada", &["customer"])];
/// The password of all of them: whoever uses them is on this machine.
const PASSWORD: &str = "correct horse battery staple";
/// The steps of an order after it is placed.
const STEPS: [&str; 4] = ["accept", "prepare", "ready", "serve"];
/// The time between two steps of a party.
const BETWEEN: Duration = Duration::from_secs(3);

/// Connects as the first restaurant's backend.
///
/// # Errors
/// If the stack does not let it in.
pub(super) async fn client(stack: &LocalStack) -> Result<DemoClient> {
    DemoClient::connect(stack, new_command_id().as_str()).await
}

/// Sets up the restaurant, then has so many parties a minute come, for ever.
///
/// # Errors
/// Where the restaurant cannot be set up.
pub(super) async fn play(client: &DemoClient, parties: u32) -> Result<()> {
    set_up(client).await?;
    let mut pace = interval(Duration::from_secs(60) / parties);
    let mut parties = JoinSet::new();
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for n in 0.. {
        pace.tick().await;
        // A table whose party is still there is passed over.
        if parties.len() < TABLES {
            parties.spawn(party(client.clone(), format!("t{}", n % TABLES + 1)));
        }
        while let Some(gone) = parties.try_join_next() {
            if let Ok(Err(error)) = gone {
                tracing::warn!("a party of the sample left early: {error:#}");
            }
        }
    }
    Ok(())
}

/// Returns what people read of it.
pub(super) fn banner() -> String {
    let emails = USERS.map(|(id, _)| format!("{id}@example.org")).join(", ");
    format!("The sample's users are {emails}; their password is {PASSWORD:?}.\n")
}

/// Makes what is not there from an earlier time.
async fn set_up(client: &DemoClient) -> Result<()> {
    for (sku, name, unit_price, category) in PRODUCTS {
        let product = json!({
            "name": name, "unit_price": unit_price, "currency": "EUR", "category": category,
        });
        client.command(&client.address(Aggregate::Product, sku)?, "set", product).await?;
    }
    for n in 1..=TABLES {
        let table = client.address(Aggregate::Table, &format!("t{n}"))?;
        made(client, &table, json!({ "label": format!("Table {n}"), "seats": 4 })).await?;
    }
    for (id, roles) in USERS {
        let user = client.address(Aggregate::User, id)?;
        let email = format!("{id}@example.org");
        let payload = json!({ "email": email, "profile_id": id, "password": PASSWORD });
        made(client, &user, payload).await?;
        client.command(&user, "change_roles", json!({ "roles": roles })).await?;
    }
    Ok(())
}

/// Registers a table or user, unless it is there.
async fn made(client: &DemoClient, about: &Address, payload: Value) -> Result<()> {
    let answer = client.attempt(about, "register", payload).await?;
    let there = answer.status < 300 || answer.body["code"] == "already_exists";
    anyhow::ensure!(there, "{about} was refused: {}", answer.body);
    Ok(())
}

/// A party takes the table, orders, eats and pays. Its turn is over with what is paid.
async fn party(client: DemoClient, table: String) -> Result<()> {
    let turn = new_command_id();
    let at = client.address(Aggregate::Table, &table)?;
    let opened = client.attempt(&at, "open_turn", json!({ "turn_id": turn })).await?;
    if opened.body["code"] == "turn_open" {
        return Ok(());
    }
    anyhow::ensure!(opened.status < 300, "open_turn was refused: {}", opened.body);
    let order = client.address(Aggregate::Order, new_command_id().as_str())?;
    let place = json!({ "turn_id": turn, "currency": "EUR", "items": dishes() });
    client.command(&order, "place", place).await?;
    for step in STEPS {
        sleep(BETWEEN).await;
        client.command(&order, step, json!({})).await?;
    }
    sleep(BETWEEN).await;
    let payment = client.address(Aggregate::Payment, new_command_id().as_str())?;
    let initiate = json!({ "target": { "order": order.id }, "method": "cash" });
    let due = client.command(&payment, "initiate", initiate).await?;
    let amount = &due.body["data"]["core"]["amount"];
    let cash = json!({ "amount": amount, "currency": "EUR" });
    client.command(&payment, "confirm_cash", cash).await?;
    client.command(&order, "complete", json!({})).await?;
    Ok(())
}

/// Returns one to four dishes, of which some twice.
fn dishes() -> Vec<Value> {
    let chosen = index::sample(&mut rand::rng(), PRODUCTS.len(), rand::random_range(1..=4));
    let dish = |n: usize| json!({ "sku": PRODUCTS[n].0, "quantity": rand::random_range(1..=2) });
    chosen.into_iter().map(dish).collect()
}
