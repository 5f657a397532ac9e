//! Queries, with and without a matching ETag, beside a bare `SELECT` by key and beside a bare
//! request that is answered at once.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use async_nats::{Client, HeaderMap, Request};
use brigade_contracts::{Door, WorkerName, header};
use futures::StreamExt;

use super::{
    Plan, check,
    fleet::{BenchFleet, connect},
    load::closed,
    report::BenchReport,
    rush::Rush,
};

/// Orders in the list that is asked for.
const ORDERS: usize = 200;
/// Queries under way at once.
const LANES: [usize; 2] = [1, 64];
/// More connections would not make Postgres faster on a few cores.
const CONNECTIONS: usize = 8;

/// A query that is answered without brigade.
const BARE: &str = "q.bench.view.cart.bare";

/// Queries a second that know nothing of brigade.
struct Ceilings {
    lanes: usize,
    select: f64,
    request: f64,
}

pub async fn measure(plan: &Plan, report: &mut BenchReport) -> Result<()> {
    let mut fleet = BenchFleet::open().await?;
    report.header(&fleet).await?;
    let length = plan.length / 4;
    let mut requests = Vec::new();
    for lanes in LANES {
        requests.push(bare_requests(&fleet, lanes, length).await?);
    }
    fleet.start_workers().await?;
    let rush = Rush::open(&fleet, super::mix::TENANTS).await?;
    for _ in 0..ORDERS {
        rush.send(Door::Request, rush.mix.placing(0)).await?;
    }
    let cart = "q.t1.view.cart.c1";
    let list = "q.t0.active_orders";
    for (lanes, request) in LANES.into_iter().zip(requests) {
        let ceilings =
            Ceilings { lanes, select: bare_select(&fleet, lanes, length).await?, request };
        for (name, subject) in [("view", cart), ("list of 200", list)] {
            ask(&fleet, name, subject, &ceilings, length, report).await?;
        }
    }
    check::everything_was_done(&fleet, &rush).await?;
    fleet.close().await;
    Ok(())
}

async fn ask(
    fleet: &BenchFleet,
    name: &str,
    subject: &'static str,
    ceilings: &Ceilings,
    length: Duration,
    report: &mut BenchReport,
) -> Result<()> {
    let client = fleet.operator.client();
    let etag = query(&client, subject, "\"none\"", "200").await?;
    for (asked, expected) in [("\"none\"".to_owned(), "200"), (etag, "304")] {
        let client = client.clone();
        let rate = closed(ceilings.lanes, length, move |_| {
            let (client, asked) = (client.clone(), asked.clone());
            async move { query(&client, subject, &asked, expected).await.map(|_| ()) }
        })
        .await?;
        let name = format!("query of a {name}, {expected}, {} at once", ceilings.lanes);
        report.row(format!("{name}, beside SELECT"), rate, "queries/s", ceilings.select);
        report.row(format!("{name}, beside request"), rate, "queries/s", ceilings.request);
    }
    Ok(())
}

/// The ETag of the answer.
pub async fn query(client: &Client, subject: &str, etag: &str, status: &str) -> Result<String> {
    let mut headers = HeaderMap::new();
    headers.insert(header::IF_NONE_MATCH, etag);
    let reply = client.send_request(subject.to_owned(), Request::new().headers(headers)).await?;
    let headers = reply.headers.as_ref().context("an answer without headers")?;
    let found = headers.get(header::STATUS).map(|status| status.as_str());
    ensure!(found == Some(status), "{subject}: {found:?}");
    Ok(headers.get(header::ETAG).map(ToString::to_string).unwrap_or_default())
}

async fn bare_select(fleet: &BenchFleet, lanes: usize, length: Duration) -> Result<f64> {
    let sql = fleet.sql.clone();
    closed(lanes.min(CONNECTIONS), length, move |_| {
        let sql = sql.clone();
        async move {
            let select = "select version from brigade.carts where tenant = 't1' and id = 'c1'";
            sqlx::query(select).fetch_one(&sql).await?;
            Ok(())
        }
    })
    .await
}

/// Requests that are answered at once, with as much as a view: by edge's user, which may listen to
/// queries, before edge itself does.
async fn bare_requests(fleet: &BenchFleet, lanes: usize, length: Duration) -> Result<f64> {
    let responder = connect(&fleet.stack.servers(WorkerName::Edge).nats_url).await?;
    let mut requests = responder.subscribe("q.*.view.*.*").await?;
    let answering = tokio::spawn(async move {
        while let Some(request) = requests.next().await {
            if let Some(reply) = request.reply {
                responder.publish(reply, "x".repeat(600).into()).await?;
            }
        }
        anyhow::Ok(())
    });
    let client = fleet.operator.client();
    // The server may not know of the responder yet.
    let until = Instant::now() + Duration::from_secs(5);
    while client.request(BARE, "".into()).await.is_err() {
        ensure!(Instant::now() < until, "no bare answers");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let rate = closed(lanes, length, move |_| {
        let client = client.clone();
        async move {
            client.request(BARE, "".into()).await?;
            Ok(())
        }
    })
    .await;
    answering.abort();
    rate
}
