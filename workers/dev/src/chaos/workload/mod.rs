//! What the clients of a run do: dinners from the table to the paid order, people who log in and
//! out, readers, operators who deal with dead letters, and sequences that nobody in their right mind would send.

mod dinner;
mod gateway;
mod operators;
mod people;
mod poison;
mod scramble;

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use brigade_contracts::{Token, permissions};
use rand::{Rng, seq::IndexedRandom};
use serde_json::json;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use self::{gateway::ChaosGateway, operators::Operators, scramble::Worlds};
pub use self::{
    gateway::GatewayFact,
    operators::{OperatorLedger, OperatorRun},
    poison::poison,
};
use super::{
    client::ChaosClient,
    doors::Doors,
    fleet::{ChaosFleet, TENANTS, connect},
    history::OperationHistory,
};

/// Clients of a tenant that send commands, and those that only read.
const SENDERS: u32 = 5;
const READERS: u32 = 2;
/// Tables of a tenant.
const TABLES: u32 = 4;
/// Aggregates of a tenant that readers look at: those that were touched last.
const RECENT: usize = 24;

/// The state that the clients of a tenant share.
#[derive(Clone)]
struct Restaurant {
    gateway: ChaosGateway,
    worlds: Arc<Mutex<Worlds>>,
    recent: Arc<Mutex<Vec<String>>>,
}

impl Restaurant {
    /// Notes an aggregate for those who read.
    fn touched(&self, random: &mut impl Rng, key: String) {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        if recent.len() < RECENT {
            recent.push(key);
        } else {
            recent[random.random_range(0..RECENT)] = key;
        }
    }

    fn any_recent(&self, random: &mut impl Rng) -> Option<String> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner).choose(random).cloned()
    }
}

/// The clients of a run, until they are stopped.
pub struct Workload {
    stop: CancellationToken,
    clients: JoinSet<()>,
    pub gateways: Vec<ChaosGateway>,
    pub ledger: OperatorLedger,
}

impl Workload {
    /// Starts the clients of all tenants.
    ///
    /// # Errors
    /// If nats-server does not let them in.
    pub async fn start(fleet: &ChaosFleet, history: &OperationHistory, seed: u64) -> Result<Self> {
        let (stop, mut clients) = (CancellationToken::new(), JoinSet::new());
        let operator = connect(&fleet.stack, &permissions::operator().name).await?;
        let (mut number, mut gateways) = (0, Vec::new());
        for tenant in TENANTS {
            let user = permissions::producer(&Token::new(tenant)?).name;
            let backend = connect(&fleet.stack, &user).await?;
            let http = reqwest::Client::builder().no_proxy().build()?;
            let (operator, edges) = (operator.clone(), fleet.edges.clone());
            let previous = fleet.plan.previous.clone();
            let doors = Doors { backend, operator, http, edges, previous };
            let client = |number: u32, stop: &CancellationToken| {
                let (doors, history) = (doors.clone(), history.clone());
                ChaosClient::new(number, tenant, seed, doors, history, stop.clone())
            };
            // A gateway goes on for a while when nobody orders any more.
            let gateway = ChaosGateway::new(client(1000 + number, &CancellationToken::new()));
            let (worlds, recent) = (Arc::default(), Arc::default());
            let restaurant = Restaurant { gateway: gateway.clone(), worlds, recent };
            gateways.push(gateway);
            for reads in (0..SENDERS + READERS).map(|n| n >= SENDERS) {
                let (client, restaurant) = (client(number, &stop), restaurant.clone());
                if reads {
                    clients.spawn(read(client, restaurant));
                } else {
                    clients.spawn(send(client, restaurant));
                }
                number += 1;
            }
        }
        let ledger = OperatorLedger::default();
        let operators = Operators::new(fleet, history, ledger.clone());
        clients.spawn(operators.work(seed, stop.clone()));
        Ok(Self { stop, clients, gateways, ledger })
    }

    /// Lets the clients end what they are at.
    pub async fn stop(&mut self) {
        self.stop.cancel();
        while self.clients.join_next().await.is_some() {}
        for gateway in &self.gateways {
            gateway.finish().await;
        }
    }

    /// Returns what operators did with dead letters.
    #[must_use]
    pub fn runs(&self) -> Vec<OperatorRun> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns the number of clients that ended by themselves, which is a fault of the workload.
    pub fn dead(&mut self) -> usize {
        std::iter::from_fn(|| self.clients.try_join_next()).count()
    }
}

async fn send(mut client: ChaosClient, restaurant: Restaurant) {
    for table in 1..=TABLES {
        let register = json!({ "label": format!("Table {table}"), "seats": 4 });
        client.command(&format!("table.T{table}"), "register", &register).await;
    }
    while !client.stop.is_cancelled() {
        match client.random.random_range(0..10) {
            0..=4 => dinner::play(&mut client, &restaurant).await,
            5 => people::play(&mut client).await,
            _ => scramble::play(&mut client, &restaurant).await,
        }
        client.think().await;
    }
}

async fn read(mut client: ChaosClient, restaurant: Restaurant) {
    while !client.stop.is_cancelled() {
        if client.random.random_ratio(1, 8) {
            client.list().await;
        } else if let Some(key) = restaurant.any_recent(&mut client.random) {
            client.view(&key).await;
        }
        client.think().await;
    }
}
