//! S0: the screen still says "not paid" after a payment.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use brigade_contracts::{Address, WorkerName};
use serde_json::json;

use super::{
    DemoFleet, Promises,
    client::DemoResponse,
    narration::{mark, millis, say},
};

const COMMITTED: &str = "An answer comes after state, event and outbox row are in SQL";
const NO_STALE_304: &str = "A poll after the answer is never told \"not changed\"";
const NO_STALE_BODY: &str = "A poll after the answer never shows an older state";
const SAME_304: &str = "A poll with the newest ETag is told \"not changed\"";
const CATCHES_UP: &str = "The read model catches up by itself";

/// The number of races after the story.
const RACES: u32 = 200;

/// A fault of the two workers between the database and the screen.
#[derive(Clone, Copy, PartialEq)]
enum Fault {
    None,
    RelayPaused,
    ProjectorPaused,
    BothKilled,
}

/// One poll right after an answer.
struct Race {
    naive_is_stale: bool,
    seen: DemoResponse,
    answered_in: Duration,
    polled_in: Duration,
}

pub async fn play(fleet: &mut DemoFleet, promises: &mut Promises) -> Result<()> {
    say(STORY);
    for (at, fault) in [Fault::None, Fault::RelayPaused, Fault::ProjectorPaused, Fault::BothKilled]
        .into_iter()
        .enumerate()
    {
        say(format!("\n  {}. {}", at + 1, fault.text()));
        let cart = set_table(fleet, &format!("table-{}", at + 1)).await?;
        fault.cause(fleet).await?;
        let race = race(fleet, promises, &cart).await?;
        tell(&race);
        fault.mend(fleet).await?;
        catch_up(fleet, promises, &cart).await?;
    }
    many_races(fleet, promises).await
}

const STORY: &str = r#"
S0  The screen still says "not paid"
    Ada and Bob share a cart of 25.00 EUR. Bob taps "I pay cash at the door": the restaurant's
    program sends the command, gets its answer, and Bob's phone polls at once with the ETag it has.
    A naive read model counts versions for itself, when it gets to an event. brigade's version comes
    from SQL, and every query is confirmed there."#;

impl Fault {
    fn text(self) -> &'static str {
        match self {
            Self::None => "Everything runs.",
            Self::RelayPaused => "outbox-relay is paused (SIGSTOP): no event leaves the database.",
            Self::ProjectorPaused => "payment-projector is paused: no event reaches the view.",
            Self::BothKilled => "Both are killed with -9.",
        }
    }

    async fn cause(self, fleet: &mut DemoFleet) -> Result<()> {
        match self {
            Self::None => {}
            Self::RelayPaused => fleet.worker(WorkerName::OutboxRelay)?.pause(),
            Self::ProjectorPaused => fleet.worker(WorkerName::PaymentProjector)?.pause(),
            Self::BothKilled => {
                fleet.worker(WorkerName::OutboxRelay)?.kill().await;
                fleet.worker(WorkerName::PaymentProjector)?.kill().await;
            }
        }
        Ok(())
    }

    async fn mend(self, fleet: &mut DemoFleet) -> Result<()> {
        match self {
            Self::None => {}
            Self::RelayPaused => fleet.worker(WorkerName::OutboxRelay)?.go_on(),
            Self::ProjectorPaused => fleet.worker(WorkerName::PaymentProjector)?.go_on(),
            Self::BothKilled => {
                fleet.start_again(WorkerName::OutboxRelay).await?;
                fleet.start_again(WorkerName::PaymentProjector).await?;
            }
        }
        Ok(())
    }
}

/// A cart with two members and something to eat, known to every part of the fleet.
async fn set_table(fleet: &mut DemoFleet, id: &str) -> Result<Address> {
    let client = &mut fleet.client;
    let cart = client.cart(id)?;
    // Nobody has as many open carts as races are run.
    let owner = format!("ada-{id}");
    let open = json!({ "kind": "team", "owner": owner, "currency": "EUR" });
    client.command(&cart, "open", open).await?;
    client.command(&cart, "join", json!({ "user": "bob" })).await?;
    let pizza = json!({ "item_id": "pizza", "sku": "P1", "name": "Pizza", "unit_price": 1250,
                        "quantity": 2 });
    client.command(&cart, "add_item", pizza).await?;
    client.until_projected(&cart, 2).await?;
    Ok(cart)
}

/// Bob commits, and polls at once with the ETag he had.
async fn race(fleet: &mut DemoFleet, promises: &mut Promises, cart: &Address) -> Result<Race> {
    let client = &mut fleet.client;
    let before = client.poll(cart, None).await?;
    let naive_before = client.projected(cart).await;
    let asked = Instant::now();
    let answer = client.command(cart, "commit_cod", json!({ "user": "bob" })).await?;
    let answered_in = asked.elapsed();
    let naive_is_stale = client.projected(cart).await == naive_before;
    let asked = Instant::now();
    let seen = client.poll(cart, before.etag.as_deref()).await?;
    let polled_in = asked.elapsed();
    let version = answer.body["version"].as_u64().context("an answer has a version")?;
    promises.test(COMMITTED, is_committed(fleet, cart, version).await?);
    promises.test(NO_STALE_304, seen.status != 304);
    let shows_it = seen.body["version"].as_u64() >= Some(version) && bob_pays(&seen);
    promises.test(NO_STALE_BODY, seen.status == 304 || shows_it);
    Ok(Race { naive_is_stale, seen, answered_in, polled_in })
}

fn bob_pays(seen: &DemoResponse) -> bool {
    let members = seen.body["payments"]["members"].as_array();
    members.into_iter().flatten().any(|m| m["user"] == "bob" && m["committed"] == "cod")
}

fn tell(race: &Race) {
    let Race { naive_is_stale, seen, answered_in, polled_in } = race;
    say(format!("       command answered          {:>8}", millis(*answered_in)));
    let naive = if *naive_is_stale {
        format!("{} 304: the screen keeps saying \"not paid\"", mark(false))
    } else {
        format!("{} 200, by luck: the projection was quick enough this time", mark(true))
    };
    say(format!("       poll, naive read model              {naive}"));
    let shown = if seen.status == 200 && bob_pays(seen) {
        format!("{} 200, version {}: Bob pays cash", mark(true), seen.body["version"])
    } else {
        format!("{} {}: {}", mark(false), seen.status, seen.body)
    };
    say(format!("       poll, brigade             {:>8}  {shown}", millis(*polled_in)));
}

/// After the fault has gone: the projection is there, and the newest ETag is answered 304.
async fn catch_up(fleet: &mut DemoFleet, promises: &mut Promises, cart: &Address) -> Result<()> {
    let mended = Instant::now();
    let version = fleet.client.poll(cart, None).await?.body["version"].as_u64().unwrap_or(0);
    let caught_up = fleet.client.until_projected(cart, version).await;
    promises.test(CATCHES_UP, caught_up.is_ok());
    let newest = format!("\"{version}\"");
    promises.test(SAME_304, fleet.client.poll(cart, Some(&newest)).await?.status == 304);
    say(format!("       read model caught up      {:>8}", millis(mended.elapsed())));
    Ok(())
}

async fn is_committed(fleet: &DemoFleet, cart: &Address, version: u64) -> Result<bool> {
    let found: bool = sqlx::query_scalar(
        "select exists (select from brigade.carts where tenant = $1 and id = $2 and version >= $3)
            and exists (select from brigade.events
                        where tenant = $1 and aggregate = 'cart' and id = $2 and version = $3)",
    )
    .bind(cart.tenant.as_str())
    .bind(cart.id.as_str())
    .bind(version.cast_signed())
    .fetch_one(&fleet.client.sql)
    .await?;
    Ok(found)
}

async fn many_races(fleet: &mut DemoFleet, promises: &mut Promises) -> Result<()> {
    say(format!(
        "\n  5. The same {RACES} times more, while the relay and the projector are paused and killed in turn."
    ));
    let (mut naive_stale, mut stale, mut slowest) = (0, 0, Duration::ZERO);
    let faults = [Fault::None, Fault::RelayPaused, Fault::None, Fault::ProjectorPaused];
    let mut last = None;
    for round in 0..RACES {
        let fault = match round % 50 {
            49 => Fault::BothKilled,
            _ => faults[round as usize % faults.len()],
        };
        let cart = set_table(fleet, &format!("race-{round}")).await?;
        fault.cause(fleet).await?;
        let race = race(fleet, promises, &cart).await?;
        fault.mend(fleet).await?;
        naive_stale += u32::from(race.naive_is_stale);
        stale += u32::from(race.seen.status != 200 || !bob_pays(&race.seen));
        slowest = slowest.max(race.polled_in);
        last = Some(cart);
    }
    if let Some(cart) = last {
        catch_up(fleet, promises, &cart).await?;
    }
    say(format!("       naive read model          {naive_stale:>8}  of {RACES} polls stale"));
    say(format!(
        "       brigade                   {stale:>8}  of {RACES}; slowest poll {}",
        millis(slowest)
    ));
    Ok(())
}
