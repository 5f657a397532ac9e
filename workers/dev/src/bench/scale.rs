//! Scaling: 2 and 4 processes of a worker beside one, where each round trip to either server takes
//! 2 ms more. So what is measured is how well processes share the work while they wait, as far as
//! the cores of this machine let them; all else runs next to its servers.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use brigade_contracts::{Door, WorkerName};
use sqlx::Connection;

use super::{
    Plan, check,
    fleet::BenchFleet,
    outbox::{Fill, drained},
    proxy,
    report::BenchReport,
    rush::Rush,
};

const PROCESSES: [usize; 3] = [1, 2, 4];
/// The rate is taken after this part of the work, when all processes surely take part.
const BEGUN: f64 = 0.1;

pub async fn measure(plan: &Plan, report: &mut BenchReport) -> Result<()> {
    let mut fleet = BenchFleet::open().await?;
    report.header(&fleet).await?;
    report.figure("scale: a round trip to Postgres", round_trip(&fleet).await?, "ms");
    let mut rates = Vec::new();
    let mut rush = None;
    for count in PROCESSES {
        fleet.start_all_but(Some(WorkerName::CommandHandler)).await?;
        fleet.start_far(WorkerName::CommandHandler, count).await?;
        if rush.is_none() {
            rush = Some(Rush::open(&fleet, plan.carts).await?);
        }
        let rush = rush.as_ref().context("just opened")?;
        rates.push(rush.closed(Door::Request, plan.length * 2 / 3).await?);
        fleet.stop(Some(WorkerName::CommandHandler)).await;
    }
    report_all(WorkerName::CommandHandler, "commands/s", &rates, report);

    let rush = rush.context("opened")?;
    fleet.start_workers().await?;
    let payload = payload_of_an_order(&fleet, &rush).await?;
    check::everything_was_done(&fleet, &rush).await?;
    fleet.stop(None).await;
    relay_and_projector(&mut fleet, plan.events / 2, &payload, report).await?;
    fleet.start_workers().await?;
    check::everything_was_done(&fleet, &rush).await?;
    fleet.close().await;
    Ok(())
}

/// The relays bring events of new orders into `EVENTS`, then the projectors show them.
async fn relay_and_projector(
    fleet: &mut BenchFleet,
    events: u32,
    payload: &str,
    report: &mut BenchReport,
) -> Result<()> {
    let (mut relayed, mut projected) = (Vec::new(), Vec::new());
    for count in PROCESSES {
        fleet.start_far(WorkerName::OutboxRelay, count).await?;
        shares_are_spread(fleet, count).await?;
        let prefix = format!("scale{count}-");
        let fill = Fill {
            aggregates: events,
            kind: ("order", "placed"),
            payload: payload.to_owned(),
            prefix: &prefix,
            ..Fill::usual(events)
        };
        fill.commit(fleet).await?;
        let started = Instant::now();
        drained(fleet).await?;
        relayed.push(f64::from(events) / started.elapsed().as_secs_f64());
        fleet.stop(None).await;
        fleet.start_far(WorkerName::PaymentProjector, count).await?;
        projected.push(projection(fleet, f64::from(events)).await?);
        fleet.stop(None).await;
    }
    report_all(WorkerName::OutboxRelay, "events/s", &relayed, report);
    report_all(WorkerName::PaymentProjector, "events/s", &projected, report);
    Ok(())
}

fn report_all(worker: WorkerName, unit: &'static str, rates: &[f64], report: &mut BenchReport) {
    for (count, rate) in PROCESSES.iter().zip(rates) {
        report.row(format!("scale: {count} x {worker}"), *rate, unit, rates[0]);
    }
}

/// The payload of an order's first event.
async fn payload_of_an_order(fleet: &BenchFleet, rush: &Rush) -> Result<String> {
    rush.send(Door::Request, rush.mix.placing(0)).await?;
    let payload = "select payload::text from brigade.events where type = 'placed' limit 1";
    Ok(sqlx::query_scalar(payload).fetch_one(&fleet.sql).await?)
}

/// Waits until each relay holds its part of the shards.
async fn shares_are_spread(fleet: &BenchFleet, relays: usize) -> Result<()> {
    let until = Instant::now() + Duration::from_secs(20);
    loop {
        let held: Vec<i64> = sqlx::query_scalar(
            "select count(*) from brigade.leases
             where starts_with(name, 'outbox-relay.share.') and holder in (
                 select holder from brigade.leases
                 where starts_with(name, 'outbox-relay.member.') and until > now())
             group by holder",
        )
        .fetch_all(&fleet.sql)
        .await?;
        if held.len() == relays && held.iter().sum::<i64>() == i64::from(brigade_contracts::SHARDS)
        {
            return Ok(());
        }
        anyhow::ensure!(Instant::now() < until, "{relays} relays hold {held:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Events a second that the projectors show, of so many that wait.
async fn projection(fleet: &BenchFleet, events: f64) -> Result<f64> {
    let mut begun = None;
    loop {
        let name = format!("CONSUMER.INFO.EVENTS.{}", WorkerName::PaymentProjector);
        let info = fleet.jetstream(&name, &serde_json::json!({})).await?;
        let count = |field: &str| info[field].as_f64().context("a consumer's count");
        let left = count("num_pending")? + count("num_ack_pending")?;
        let now = Instant::now();
        match begun {
            None if left <= events * (1.0 - BEGUN) => begun = Some((now, left)),
            Some((at, before)) if left == 0.0 => {
                return Ok(before / now.duration_since(at).as_secs_f64());
            }
            _ => {}
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Milliseconds that a statement takes from afar.
async fn round_trip(fleet: &BenchFleet) -> Result<f64> {
    let port = fleet.stack.postgres.port();
    let through = proxy::to(port).await?;
    let url = fleet.stack.superuser_url().replace(&format!(":{port}"), &format!(":{through}"));
    let mut far = sqlx::PgConnection::connect(&url).await?;
    let (started, trips) = (Instant::now(), 50);
    for _ in 0..trips {
        sqlx::raw_sql("select 1").execute(&mut far).await?;
    }
    Ok(started.elapsed().as_secs_f64() * 1e3 / f64::from(trips))
}
