//! Work of a restaurant's day through both doors, by a client that repeats what is not decided.

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
    Town,
    producer::{item, placed},
    until,
};

/// `parties` at once: each logs in, fills a cart, commits, orders and is served, and looks at every
/// step.
///
/// # Panics
/// Where something is refused, or an older state is shown.
pub async fn run(town: &Town, name: &str, parties: usize) {
    let nats = town.connect("t1-producer").await;
    let client = Arc::new(Client::new(nats, Duration::from_secs(60)));
    let party = |n: usize| party(client.clone(), format!("{name}{n}"));
    join_all((0..parties).map(party)).await;
}

async fn party(client: Arc<Client>, name: String) {
    let cart = Address::new("t1", Aggregate::Cart, &format!("cart-{name}")).expect("tokens");
    let order = Address::new("t1", Aggregate::Order, &format!("order-{name}")).expect("tokens");
    let user = Address::new("t1", Aggregate::User, &format!("user-{name}")).expect("tokens");
    let email = format!("{name}@example.org");
    let register = json!({"email": email, "profile_id": "p1", "password": "correct horse"});
    let open = json!({"kind": "team", "owner": format!("ada-{name}"), "currency": "EUR"});
    let plan = json!({"subscription_id": "s1", "plan": "gold"});
    let steps: [(&Address, Door, &str, Value); 12] = [
        (&user, Door::Request, "register", register),
        (&user, Door::Request, "login", json!({"email": email, "password": "correct horse"})),
        (&cart, Door::Request, "open", open),
        (&cart, Door::Durable, "join", json!({"user": "bob"})),
        (&cart, Door::Request, "add_item", item("i1", 100, 2)),
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
        assert!(Some(view.version) >= outcome.version, "{name} {verb}: an older view");
    }
}

/// The same without an end, until it is stopped.
pub struct Load {
    /// Parties that have gone home.
    pub done: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    tasks: Vec<JoinHandle<()>>,
}

impl Load {
    /// Starts `lanes` of parties, one after the other each.
    pub async fn start(town: &Town, lanes: usize) -> Self {
        Self::named(town, "", lanes).await
    }

    /// The same, where there are parties of other names already.
    pub async fn named(town: &Town, name: &str, lanes: usize) -> Self {
        let nats = town.connect("t1-producer").await;
        let client = Arc::new(Client::new(nats, Duration::from_secs(60)));
        let (done, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let lane = |lane: usize| {
            let (client, done, stop) = (client.clone(), done.clone(), stop.clone());
            let name = name.to_owned();
            tokio::spawn(async move {
                for n in 0_u64.. {
                    if stop.load(Ordering::SeqCst) {
                        return;
                    }
                    party(client.clone(), format!("{name}{lane}-{n}")).await;
                    done.fetch_add(1, Ordering::SeqCst);
                }
            })
        };
        let tasks = (0..lanes).map(lane).collect();
        Self { done, stop, tasks }
    }

    /// Waits until so many parties have gone home.
    pub async fn until_done(&self, count: u64) {
        until(&format!("{count} parties"), || async {
            (self.done.load(Ordering::SeqCst) >= count).then_some(())
        })
        .await;
    }

    /// Lets the last ones finish.
    ///
    /// # Panics
    /// Where something was refused or stale.
    pub async fn stop(self) {
        self.stop.store(true, Ordering::SeqCst);
        for task in self.tasks {
            task.await.expect("no refusal, nothing stale");
        }
    }
}
