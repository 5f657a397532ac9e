//! The standard read workload, and where the content of its answers comes from.

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use brigade_contracts::{Door, WorkerName};
use rand::{Rng, SeedableRng, rngs::StdRng};

use super::{
    Plan, check,
    fleet::BenchFleet,
    load::closed,
    mix::{CARTS, TENANTS, TenantDistribution},
    queries::query,
    report::BenchReport,
    rush::Rush,
};

const LANES: usize = 64;

/// 70 % lists of active orders, 20 % views of carts, 10 % commands of the standard mix; tenants by
/// Zipf's law. Nobody has an ETag, so that every answer has content.
pub async fn measure(plan: &Plan, report: &mut BenchReport) -> Result<()> {
    let mut fleet = BenchFleet::open().await?;
    report.header(&fleet).await?;
    fleet.start_workers().await?;
    let rush = Rush::open(&fleet, CARTS).await?;
    rush.stock(plan.length / 5).await?;
    let drawn = Arc::new(Mutex::new((StdRng::seed_from_u64(11), TenantDistribution::new())));
    let (client, carts, sender) = (fleet.operator.client(), rush.mix.carts(), rush.clone());
    let before = ContentSources::of(&fleet).await?;
    let rate = closed(LANES, plan.length, move |_| {
        let (what, tenant, cart) = {
            let mut drawn = drawn.lock().unwrap_or_else(PoisonError::into_inner);
            let (random, tenants) = &mut *drawn;
            let tenant = tenants.draw(random);
            let cart = tenant + TENANTS * random.random_range(0..carts / TENANTS);
            (random.random_range(0..10), tenant, cart)
        };
        let (client, rush) = (client.clone(), sender.clone());
        async move {
            let subject = match what {
                0..7 => format!("q.t{tenant}.active_orders"),
                7..9 => format!("q.t{tenant}.view.cart.c{cart}"),
                _ => return rush.send(Door::Request, rush.mix.next()).await,
            };
            query(&client, &subject, "\"none\"", "200").await.map(|_| ())
        }
    })
    .await?;
    let after = ContentSources::of(&fleet).await?;
    report.figure("standard reads", rate, "operations/s");
    let views = after.views.minus(&before.views);
    let lists = after.lists.minus(&before.lists);
    report.row("standard reads: views without reading SQL", views.without_sql(), "share", 1.0);
    report.row("standard reads: views from memory", views.memory / views.all(), "share", 1.0);
    report.row("standard reads: rows of lists from memory", lists.without_sql(), "share", 1.0);
    check::everything_was_done(&fleet, &rush).await?;
    fleet.close().await;
    Ok(())
}

/// The sources of content, as edge counts them.
struct ContentSources {
    views: From,
    lists: From,
}

struct From {
    memory: f64,
    kv: f64,
    sql: f64,
}

impl ContentSources {
    async fn of(fleet: &BenchFleet) -> Result<Self> {
        let edge = fleet.workers.iter().find(|worker| worker.name == WorkerName::Edge.as_str());
        let text = edge.context("edge runs")?.metrics().await?;
        let count = |name: &str, from: &str| {
            let label = format!("{name}{{from=\"{from}\"}} ");
            let value = text.lines().find_map(|line| line.strip_prefix(&label));
            value.and_then(|value| value.trim().parse().ok()).unwrap_or(0.0)
        };
        let from = |name: &str| From {
            memory: count(name, "memory"),
            kv: count(name, "kv"),
            sql: count(name, "sql"),
        };
        Ok(Self {
            views: from("brigade_view_content_total"),
            lists: from("brigade_list_rows_total"),
        })
    }
}

impl From {
    fn minus(&self, before: &Self) -> Self {
        Self {
            memory: self.memory - before.memory,
            kv: self.kv - before.kv,
            sql: self.sql - before.sql,
        }
    }

    fn all(&self) -> f64 {
        self.memory + self.kv + self.sql
    }

    fn without_sql(&self) -> f64 {
        (self.memory + self.kv) / self.all()
    }
}
