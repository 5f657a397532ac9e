//! The commands of a restaurant's day through both doors, by a client that repeats them until they
//! are decided.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use brigade_contracts::{
    Address, Aggregate, Body, Door,
    client::{Client, Send},
};
use futures::future::join_all;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::{
    TestFleet,
    producer::{item, placed},
    until,
};

/// Runs `customers` at once: each logs in, fills a cart, commits, orders and logs out, and queries
/// the view after every step.
///
/// # Panics
/// Where a command is refused, or a view is older than the outcome.
pub async fn run(fleet: &TestFleet, name: &str, customers: usize) {
    let nats = fleet.connect("t1-producer").await;
    let client = Arc::new(Client::new(nats, Duration::from_secs(60)));
    let customer = |n: usize| customer(client.clone(), format!("{name}{n}"));
    join_all((0..customers).map(customer)).await;
}

async fn customer(client: Arc<Client>, name: String) {
    let cart = Address::new("t1", Aggregate::Cart, &format!("cart-{name}")).expect("tokens");
    let order = Address::new("t1", Aggregate::Order, &format!("order-{name}")).expect("tokens");
    let user = Address::new("t1", Aggregate::User, &format!("user-{name}")).expect("tokens");
    let email = format!("{name}@example.org");
    let register = json!({"email": email, "profile_id": "p1", "password": "correct horse"});
    let open = json!({"kind": "team", "owner": format!("ada-{name}"), "currency": "EUR"});
    let plan = json!({"subscription_id": "s1", "plan": "gold"});
    let soup = Address::new("t1", Aggregate::Product, &format!("soup-{name}")).expect("tokens");
    let set = json!({"name": "Soup", "unit_price": 500, "currency": "EUR"});
    let sold = json!({"item_id": "i2", "sku": soup.id, "quantity": 1});
    let steps: [(&Address, Door, &str, Value); 15] = [
        (&user, Door::Request, "register", register),
        (&user, Door::Request, "login", json!({"email": email, "password": "correct horse"})),
        (&cart, Door::Request, "open", open),
        (&cart, Door::Durable, "join", json!({"user": "bob"})),
        (&cart, Door::Request, "add_item", item("i1", 100, 2)),
        (&soup, Door::Request, "set", set),
        (&cart, Door::Request, "add_item", sold),
        (&soup, Door::Durable, "withdraw", json!({})),
        (&cart, Door::Durable, "set_item", json!({"item_id": "i1", "quantity": 3})),
        (&cart, Door::Request, "commit_cod", json!({"user": "bob"})),
        (&order, Door::Durable, "place", placed(&[("Soup", 500, 1)])),
        (&order, Door::Request, "accept", json!({})),
        (&order, Door::Durable, "cancel", json!({"reason": "closing time"})),
        (&user, Door::Durable, "register_subscription", plan),
        (&user, Door::Durable, "logout", json!({})),
    ];
    for (address, door, verb, payload) in steps {
        let body = Body::decode(address.aggregate, verb, payload.to_string().as_bytes());
        let send = Send::new(address.clone(), body.expect("a payload")).through(door);
        let outcome = client.send(&send).await.unwrap_or_else(|e| panic!("{name} {verb}: {e}"));
        assert!(outcome.status < 300, "{name} {verb}: {} {}", outcome.status, outcome.code);
        if address.aggregate == Aggregate::User {
            continue;
        }
        let view = client.view(address).await.unwrap_or_else(|e| panic!("{name} {verb}: {e}"));
        assert!(Some(view.version) >= outcome.era_version(), "{name} {verb}: an older view");
    }
}

/// The same without end, until it is stopped.
pub struct Load {
    /// The number of customers that are done.
    pub done: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    tasks: Vec<JoinHandle<()>>,
}

impl Load {
    /// Starts `concurrency` customers at once; each is followed by another.
    pub async fn start(fleet: &TestFleet, concurrency: usize) -> Self {
        Self::named(fleet, "", concurrency).await
    }

    /// Starts the same with names of its own, beside another load.
    pub async fn named(fleet: &TestFleet, name: &str, concurrency: usize) -> Self {
        let nats = fleet.connect("t1-producer").await;
        let client = Arc::new(Client::new(nats, Duration::from_secs(60)));
        let (done, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let task = |task: usize| {
            let (client, done, stop) = (client.clone(), done.clone(), stop.clone());
            let name = name.to_owned();
            tokio::spawn(async move {
                for n in 0_u64.. {
                    if stop.load(Ordering::SeqCst) {
                        return;
                    }
                    customer(client.clone(), format!("{name}{task}-{n}")).await;
                    done.fetch_add(1, Ordering::SeqCst);
                }
            })
        };
        let tasks = (0..concurrency).map(task).collect();
        Self { done, stop, tasks }
    }

    /// Waits until this many customers are done.
    pub async fn until_done(&self, count: u64) {
        until(&format!("{count} customers"), || async {
            (self.done.load(Ordering::SeqCst) >= count).then_some(())
        })
        .await;
    }

    /// Waits for the last ones.
    ///
    /// # Panics
    /// Where a command was refused, or a view was too old.
    pub async fn stop(self) {
        self.stop.store(true, Ordering::SeqCst);
        for task in self.tasks {
            task.await.expect("no refusal, nothing stale");
        }
    }
}
