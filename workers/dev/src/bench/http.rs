//! The HTTP face of edge: reads and commands beside the same over NATS, and beside requests that
//! are answered without doing anything; and how soon the readers of a stream see a new order.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use brigade_contracts::{Door, WorkerName};
use tokio::task::JoinSet;

use super::{
    Plan, check,
    fleet::BenchFleet,
    load::{ScheduledSend, closed, open},
    machine::resident,
    queries::query,
    report::BenchReport,
    rush::Rush,
    times::Times,
    waiters::Waiters,
    web::Web,
};

/// Orders in the list that is asked for.
const ORDERS: usize = 200;
/// Requests under way at once.
const LANES: [usize; 2] = [1, 64];
/// Readers of one stream.
const READERS: usize = 500;
/// Orders placed a second while streams are read.
const PLACED: f64 = 20.0;
/// The time between two polls.
const POLL: Duration = Duration::from_secs(1);
const LIST: &str = "/v1/t0/active-orders";

pub async fn measure(plan: &Plan, report: &mut BenchReport) -> Result<()> {
    let mut fleet = BenchFleet::open().await?;
    report.header(&fleet).await?;
    fleet.start_workers().await?;
    let rush = Rush::open(&fleet, super::mix::TENANTS).await?;
    let web = Web::open(&fleet).await?;
    for _ in 0..ORDERS {
        rush.send(Door::Request, rush.mix.placing(0)).await?;
    }
    for lanes in LANES {
        reads(&fleet, &web, lanes, plan.length / 8, report).await?;
    }
    commands(&rush, &web, plan.length / 4, report).await?;
    rush.finish().await?;
    streams(&fleet, &rush, &web, plan.length / 2, report).await?;
    check::everything_was_done(&fleet, &rush).await?;
    fleet.close().await;
    Ok(())
}

/// A view and the list, with and without a matching ETag.
async fn reads(
    fleet: &BenchFleet,
    web: &Web,
    lanes: usize,
    length: Duration,
    report: &mut BenchReport,
) -> Result<()> {
    let asked = web.clone();
    let bare = closed(lanes, length, move |_| {
        let web = asked.clone();
        async move { web.bare().await }
    })
    .await?;
    let view = ("view", "/v1/t0/cart/c0", "q.t0.view.cart.c0");
    for (name, path, subject) in [view, ("list of 200", LIST, "q.t0.active_orders")] {
        let (_, etag) = web.get(path, "\"none\"", 200).await?;
        for (etag, status) in [("\"none\"".to_owned(), 200), (etag, 304)] {
            let (web, known) = (web.clone(), etag.clone());
            let rate = closed(lanes, length, move |_| {
                let (web, etag) = (web.clone(), known.clone());
                async move { web.get(path, &etag, status).await.map(|_| ()) }
            })
            .await?;
            let client = fleet.operator.client();
            let over_nats = closed(lanes, length, move |_| {
                let (client, etag) = (client.clone(), etag.clone());
                async move { query(&client, subject, &etag, &status.to_string()).await.map(|_| ()) }
            })
            .await?;
            let name = format!("HTTP GET of a {name}, {status}, {lanes} at once");
            report.row(format!("{name}, beside NATS"), rate, "requests/s", over_nats);
            report.row(format!("{name}, beside bare GET"), rate, "requests/s", bare);
        }
    }
    Ok(())
}

/// The mix, by as many senders as for reads.
async fn commands(
    rush: &Rush,
    web: &Web,
    length: Duration,
    report: &mut BenchReport,
) -> Result<()> {
    for lanes in LANES {
        rush.stock(length * 3).await?;
        let (by_nats, by_web) = (rush.clone(), (rush.clone(), web.clone()));
        let over_nats = closed(lanes, length, move |_| {
            let rush = by_nats.clone();
            async move { rush.send(Door::Request, rush.mix.next()).await }
        })
        .await?;
        let rate = closed(lanes, length, move |_| {
            let (rush, web) = by_web.clone();
            async move {
                let command = rush.mix.next();
                let status = web.send(&command).await?;
                rush.settle(command, &status)
            }
        })
        .await?;
        let name = format!("HTTP POST of commands, {lanes} at once, beside the request door");
        report.row(name, rate, "commands/s", over_nats);
    }
    Ok(())
}

/// Orders that somebody is to see.
#[derive(Clone, Default)]
struct Placed(Arc<Mutex<HashMap<String, (ScheduledSend, usize)>>>);

impl Placed {
    fn note(&self, order: &str, moment: ScheduledSend) {
        self.orders().insert(order.to_owned(), (moment, 0));
    }

    /// One more has seen it: when it was to be placed, and how many have seen it now.
    fn seen(&self, order: &str) -> Option<(ScheduledSend, usize)> {
        let mut orders = self.orders();
        let (moment, seen) = orders.get_mut(order)?;
        *seen += 1;
        Some((*moment, *seen))
    }

    fn orders(&self) -> std::sync::MutexGuard<'_, HashMap<String, (ScheduledSend, usize)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// From the moment at which an order was to be placed to the change that the first and the last of
/// many readers get, and to the list of one who polls; beside the row on `live.active_orders`.
async fn streams(
    fleet: &BenchFleet,
    rush: &Rush,
    web: &Web,
    length: Duration,
    report: &mut BenchReport,
) -> Result<()> {
    let edge = fleet.workers.iter().find(|worker| worker.name == WorkerName::Edge.as_str());
    let edge = edge.context("edge runs")?.pid();
    let before = resident(edge)?;
    let [first, last, polled, pushed] = [(); 4].map(|()| Times::new());
    let (to_read, to_poll) = (Placed::default(), Placed::default());
    let mut readers = JoinSet::new();
    for _ in 0..READERS {
        let stream = web.stream(&format!("{LIST}/stream")).await?;
        readers.spawn(read_stream(stream, to_read.clone(), first.clone(), last.clone()));
    }
    readers.spawn(poll(web.clone(), to_poll.clone(), polled.clone()));
    let live = Waiters::listen(&fleet.operator.client(), "live.active_orders.t0.*.core").await?;
    let place = |_, moment: ScheduledSend| {
        let (rush, command, times) = (rush.clone(), rush.mix.placing(0), pushed.clone());
        let order = command.places().map(|(_, n)| format!("o{n}")).unwrap_or_default();
        to_read.note(&order, moment);
        to_poll.note(&order, moment);
        let row = live.next(format!("live.active_orders.t0.{order}.core"));
        async move {
            let seen = async {
                row.await?;
                moment.done(&times);
                anyhow::Ok(())
            };
            tokio::try_join!(rush.send(Door::Durable, command), seen).map(|_| ())
        }
    };
    tokio::select! {
        done = open(PLACED, length, place) => done?,
        Some(ended) = readers.join_next() => anyhow::bail!("a reader was cut off: {ended:?}"),
    }
    // The last of the orders is on its way to those who poll.
    tokio::time::sleep(2 * POLL).await;
    let missed = to_read.orders().values().filter(|(_, seen)| *seen < READERS).count();
    ensure!(missed == 0, "{missed} orders did not reach all readers");
    let held = resident(edge)? - before;
    report.latency("stream of one tenant: change at the first of 500 readers", &first, &pushed);
    report.latency("stream of one tenant: change at the last of 500 readers", &last, &pushed);
    report.latency("list polled each second: order seen", &polled, &pushed);
    report.figure("memory of edge for 500 readers of a stream", held, "MiB");
    Ok(())
}

/// Reads a stream of the list until it ends. Of each order that was `placed` the first reader adds
/// to the times of `first`, the last one to those of `last`.
async fn read_stream(
    mut stream: reqwest::Response,
    placed: Placed,
    first: Times,
    last: Times,
) -> Result<()> {
    let mut text = Vec::new();
    while let Some(chunk) = stream.chunk().await? {
        text.extend_from_slice(&chunk);
        while let Some(end) = text.windows(2).position(|two| two == b"\n\n") {
            let frame: Vec<u8> = text.drain(..end + 2).collect();
            match order_of(&frame).and_then(|order| placed.seen(order)) {
                Some((moment, 1)) => moment.done(&first),
                Some((moment, READERS)) => moment.done(&last),
                _ => {}
            }
        }
    }
    Ok(())
}

/// Returns the order of a change.
fn order_of(frame: &[u8]) -> Option<&str> {
    let change = str::from_utf8(frame).ok().filter(|text| text.contains("event: change"))?;
    change.split_once("\"order\":\"")?.1.split('"').next()
}

async fn poll(web: Web, placed: Placed, times: Times) -> Result<()> {
    let mut etag = "\"none\"".to_owned();
    loop {
        tokio::time::sleep(POLL).await;
        let answer = web.list(&etag).await?;
        let Some((text, new)) = answer else { continue };
        etag = new;
        for row in text.split("\"order\":\"").skip(1) {
            let order = row.split('"').next().unwrap_or_default();
            if let Some((moment, 1)) = placed.seen(order) {
                moment.done(&times);
            }
        }
    }
}
