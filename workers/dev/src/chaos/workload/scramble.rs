//! The sequences of the domain's property tests: whatever is asked, in whatever order, by several
//! clients at once on the same few aggregates.

use std::sync::PoisonError;

use brigade_domain::model::{Player, Step};
use rand::Rng;
use serde_json::Value;
use std::time::Duration;
use tokio::time::sleep;

use super::Restaurant;
use crate::chaos::client::ChaosClient;

/// Steps of one client in a row.
const STEPS: usize = 10;
/// Steps after which a world is left to itself.
const LIFE: usize = 150;
/// The fields of payloads that name something, which each world has for itself.
const NAMES: [&str; 9] =
    ["owner", "session", "user", "cart", "order", "order_id", "table_id", "turn_id", "sku"];

/// The world that the clients of a tenant play in: a few aggregates whose ids end in its number.
#[derive(Default)]
pub struct Worlds {
    number: usize,
    left: usize,
    player: Player,
}

impl Worlds {
    /// Enters the world; true for whoever begins a new one.
    fn enter(&mut self) -> (usize, bool) {
        let is_new = self.left < STEPS;
        if is_new {
            *self = Self { number: self.number + 1, left: LIFE, player: Player::default() };
        }
        self.left -= STEPS;
        (self.number, is_new)
    }
}

pub async fn play(client: &mut ChaosClient, restaurant: &Restaurant) {
    let worlds = || restaurant.worlds.lock().unwrap_or_else(PoisonError::into_inner);
    let (number, is_new) = worlds().enter();
    if is_new {
        for step in Player::prelude() {
            run(client, restaurant, step, number).await;
        }
    }
    for _ in 0..STEPS {
        let choice = client.random.random::<[u8; 4]>();
        let step = worlds().player.step(choice);
        if let Some(token) = run(client, restaurant, step, number).await {
            worlds().player.remember(token);
        }
        if client.stop.is_cancelled() {
            return;
        }
        client.think().await;
    }
}

/// Runs a step; returns the fencing token that it gave.
async fn run(
    client: &mut ChaosClient,
    restaurant: &Restaurant,
    step: Step,
    number: usize,
) -> Option<i64> {
    let (target, mut payload) = match step {
        Step::Wait(minutes) => {
            sleep(Duration::from_millis(10 * minutes)).await;
            return None;
        }
        Step::Command { target, payload } => (target, payload),
    };
    rename(&mut payload, number);
    let mut words = target.split('.');
    let (aggregate, id, verb) = (words.next()?, words.next()?, words.next()?);
    let key = format!("{aggregate}.{id}-{number}");
    if client.doors.know(&key, verb, &payload) {
        restaurant.touched(&mut client.random, key.clone());
    }
    client.command(&key, verb, &payload).await?.token
}

/// Replaces names in a payload by those of a world.
fn rename(payload: &mut Value, number: usize) {
    let Some(fields) = payload.as_object_mut() else { return };
    for (name, value) in fields {
        match value {
            Value::String(id) if NAMES.contains(&name.as_str()) => *id = format!("{id}-{number}"),
            Value::Object(_) => rename(value, number),
            _ => {}
        }
    }
}
