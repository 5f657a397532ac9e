//! A party from its table to the paid order.

use rand::Rng;
use serde_json::{Value, json};

use super::{Restaurant, TABLES};
use crate::chaos::client::ChaosClient;

const STEPS: [&str; 5] = ["accept", "prepare", "ready", "serve", "complete"];
const METHODS: [&str; 3] = ["card", "wallet", "qr"];

/// A party, with what it has agreed upon.
struct Party {
    cart: String,
    owner: String,
    order: String,
    table: Option<(String, String)>,
}

/// Plays one dinner; whatever is refused, the party goes on as far as it gets.
pub async fn play(client: &mut ChaosClient, restaurant: &Restaurant) {
    let party = seat(client).await;
    let cart = format!("cart.{}", party.cart);
    let kind = ["menu", "team", "ticket"][client.random.random_range(0..3)];
    let open = json!({ "kind": kind, "owner": party.owner, "currency": "EUR" });
    if !client.done(&cart, "open", open).await {
        return;
    }
    restaurant.touched(&mut client.random, cart.clone());
    if kind == "team" && client.done(&cart, "join", json!({ "user": "bob" })).await {
        client.command(&cart, "commit_cod", &json!({ "user": "bob" })).await;
    }
    for item in 0..client.random.random_range(1..4) {
        let price = client.random.random_range(50..2000);
        client.command(&cart, "add_item", &self::item(item, price)).await;
        client.think().await;
    }
    let set = json!({ "item_id": "i0", "quantity": client.random.random_range(1..5) });
    client.command(&cart, "set_item", &set).await;
    let paid = match client.random.random_range(0..6) {
        0 => None,
        _ => Some(pay(client, restaurant, &party).await),
    };
    if paid != Some(true) {
        let table = party.table.as_ref().map(|(table, _)| table);
        let payload = json!({ "order_id": party.order, "table_id": table });
        client.command(&cart, "check_out", &payload).await;
        // The kitchen's screen is looked at as soon as the order is there.
        client.list().await;
    }
    serve(client, restaurant, &party).await;
    if let Some((table, turn)) = &party.table {
        client.command(&format!("table.{table}"), "close_turn", &json!({ "turn_id": turn })).await;
    }
}

/// A table, if one is free.
async fn seat(client: &mut ChaosClient) -> Party {
    let party = Party {
        cart: client.name("c"),
        owner: client.name("ada"),
        order: client.name("o"),
        table: None,
    };
    if client.random.random_ratio(1, 2) {
        return party;
    }
    let table = format!("T{}", client.random.random_range(1..=TABLES));
    let turn = client.name("u");
    let open = json!({ "turn_id": turn, "party_size": 2 });
    let seated = client.done(&format!("table.{table}"), "open_turn", open).await;
    Party { table: seated.then_some((table, turn)), ..party }
}

/// Begins a payment and waits for a while; returns true if the cart becomes an order by itself.
async fn pay(client: &mut ChaosClient, restaurant: &Restaurant, party: &Party) -> bool {
    let cart = format!("cart.{}", party.cart);
    let method = METHODS[client.random.random_range(0..3)];
    let token = lock(client, &cart, method).await;
    let by_itself = client.random.random_ratio(1, 2);
    let table = party.table.as_ref().filter(|_| by_itself).map(|(table, _)| table);
    let payment = client.name("p");
    let key = format!("payment.{payment}");
    let initiate = json!({
        "target": { "cart": party.cart }, "method": method, "token": token,
        "order_id": by_itself.then_some(&party.order), "table_id": table,
    });
    let Some(begun) = client.command(&key, "initiate", &initiate).await else { return by_itself };
    if begun.status >= 300 {
        return false;
    }
    restaurant.touched(&mut client.random, key.clone());
    let transaction = client.name("g");
    let bind = json!({ "transaction_id": transaction });
    client.command(&key, "bind_transaction", &bind).await;
    let charged = restaurant.gateway.charge(&payment, &transaction, begun.amount.unwrap_or(1000));
    // Some leave before the gateway says anything.
    if client.random.random_ratio(4, 5) {
        let _told = tokio::time::timeout(std::time::Duration::from_secs(4), charged).await;
    }
    if client.random.random_ratio(1, 10) {
        client.command(&key, "cancel", &json!({ "reason": "guest left" })).await;
    }
    if client.random.random_ratio(1, 10) {
        client.command(&key, "refund", &json!({ "reason": "cold pizza" })).await;
    }
    by_itself
}

/// Takes the lock before the payment, as half of them do, and uses it. Returns its token.
async fn lock(client: &mut ChaosClient, cart: &str, method: &str) -> Option<i64> {
    if client.random.random_ratio(1, 2) {
        return None;
    }
    let payload = json!({ "transaction_id": client.name("tmp"), "method": method });
    let token = client.command(cart, "lock", &payload).await?.token?;
    match client.random.random_range(0..5) {
        0 => {
            let extend = json!({ "token": token, "seconds": 2 });
            client.command(cart, "extend", &extend).await;
        }
        1 => {
            let unlock = json!({ "token": token, "reason": "another card" });
            client.command(cart, "unlock", &unlock).await;
            let next = client.command(cart, "lock", &payload).await?.token;
            // A slow program goes on with its old token, which has to be of no use any more.
            let extend = json!({ "token": token, "seconds": 1 });
            client.command(cart, "extend", &extend).await;
            return next.or(Some(token));
        }
        _ => {}
    }
    Some(token)
}

/// The kitchen's steps.
async fn serve(client: &mut ChaosClient, restaurant: &Restaurant, party: &Party) {
    let order = format!("order.{}", party.order);
    restaurant.touched(&mut client.random, order.clone());
    if client.random.random_ratio(1, 6) {
        client.command(&order, "cancel", &json!({ "reason": "late" })).await;
    }
    for step in STEPS {
        if !client.done(&order, step, json!({})).await {
            // It was never made, or it is cancelled.
            return;
        }
        if client.random.random_ratio(1, 6) {
            client.list().await;
        }
    }
}

fn item(n: u32, price: i64) -> Value {
    json!({ "item_id": format!("i{n}"), "sku": "P-1", "name": "Pizza", "unit_price": price,
            "quantity": 1 })
}
