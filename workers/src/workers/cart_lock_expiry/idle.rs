//! Ends idle carts, which nobody else will end.
//!
//! A cart is **idle** when it is open, nobody has changed it for `BRIGADE_IDLE_CART_HOURS`, nothing
//! is paid for it, no payment of it is open, and its owner holds no lock. A scan goes through the
//! carts that have not changed for so long, page by page from the oldest, and sends `abandon` to
//! command-handler for those that are idle, with the version that was read: command-handler decides
//! under its locks, so that a cart which changes at the same moment stays. Whatever it decides, the
//! scan goes on with the next page, so that a cart that cannot be ended delays no other.

use std::{sync::Arc, time::Duration};

use brigade_contracts::{Address, Aggregate, Body, Outcome, Text, cart, verb::Reason};
use futures::future::join_all;
use sqlx::PgConnection;
use tokio::time::Instant;

use super::ExpiryMetrics;
use crate::{
    infra::{
        Context,
        health::POSTGRES,
        lease::LeasedRounds,
        postgres::{Failure, bounded, failure},
    },
    runtime::{CommandClient, CommandOptions, NotDecided},
};

const LEASE: &str = "cart-lock-expiry.idle-carts";
/// Carts of a page, of which there is one each [`RENEW`](crate::infra::lease::RENEW).
const PAGE: i64 = 100;
/// The shortest time between the end of a scan and the next one.
const SCAN_EVERY: Duration = Duration::from_secs(10);
/// An outcome takes milliseconds. A cart whose outcome comes later is in the next scan again.
const TIMEOUT: Duration = Duration::from_secs(2);

/// A cart that has not changed for long.
#[derive(Debug, PartialEq)]
struct UnchangedCart {
    tenant: String,
    id: String,
    version: i64,
    /// The hour of its last change, since 1970; 0 where that is not known.
    hour: i32,
    idle: bool,
}

/// A decision of command-handler about an idle cart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AbandonDecision {
    Abandoned,
    /// The cart is not idle any more.
    Changed,
}

impl AbandonDecision {
    /// The values of the label `outcome` in metrics.
    pub const LABELS: [&str; 2] = ["abandoned", "changed"];

    fn label(&self) -> &'static str {
        match self {
            Self::Abandoned => "abandoned",
            Self::Changed => "changed",
        }
    }
}

type Decision = Result<AbandonDecision, NotDecided>;

/// A scan of the carts that have not changed for long.
struct CartScan {
    /// The last cart of the page before: hour, tenant, id.
    after: (i32, String, String),
    /// When the next page is due.
    next: Instant,
}

impl Default for CartScan {
    fn default() -> Self {
        Self { after: (-1, String::new(), String::new()), next: Instant::now() }
    }
}

impl CartScan {
    /// Moves past a page; after the last one another scan begins.
    fn pass(&mut self, page: &[UnchangedCart]) {
        match page.last() {
            Some(last) if page.len() as i64 == PAGE => {
                self.after = (last.hour, last.tenant.clone(), last.id.clone());
            }
            _ => *self = Self { next: Instant::now() + SCAN_EVERY, ..Self::default() },
        }
    }
}

/// Ends idle carts, under the lease, until the drain.
pub async fn keep(cx: Context, metrics: Arc<ExpiryMetrics>, hours: u16) {
    let mut scan = CartScan::default();
    // The sweep of overdue locks reports whether Postgres can be reached.
    let mut rounds = LeasedRounds::new(&cx, LEASE, cx.health.duty("idle carts"));
    while rounds.begin().await {
        let done = abandon_page(&cx, &metrics, hours, &mut scan).await;
        rounds.not_before(scan.next);
        match done {
            Ok(true) => rounds.succeeded(),
            Ok(false) => rounds.blocked(),
            Err(error) => {
                if failure(&error) == Failure::Fault {
                    tracing::error!(worker = %cx.worker, %error, "scan of idle carts failed");
                }
                rounds.failed(POSTGRES, &error.to_string());
            }
        }
    }
}

/// Ends the idle carts of the next page. Returns false if command-handler is unavailable.
async fn abandon_page(
    cx: &Context,
    metrics: &ExpiryMetrics,
    hours: u16,
    scan: &mut CartScan,
) -> sqlx::Result<bool> {
    let hours = i32::from(hours);
    let page = bounded(&cx.postgres, async |c| page(c, hours, scan, PAGE).await).await?;
    scan.pass(&page);
    let idle = page.iter().filter(|cart| cart.idle).filter_map(|cart| {
        let address = Address::new(&cart.tenant, Aggregate::Cart, &cart.id).ok()?;
        Some((address, cart.version))
    });
    let idle: Vec<(Address, i64)> = idle.collect();
    if idle.is_empty() {
        return Ok(true);
    }
    cx.fail.point("cart-lock-expiry.before_abandon").await;
    let decisions = idle.iter().map(|(cart, version)| abandon(cx, metrics, cart, *version));
    let decisions = join_all(decisions).await;
    log(cx, &decisions);
    let unavailable = |decision: &Decision| matches!(decision, Err(NotDecided::Unavailable(_)));
    Ok(!decisions.iter().all(unavailable))
}

/// Loads the next carts that have not changed for `hours`.
async fn page(
    postgres: &mut PgConnection,
    hours: i32,
    scan: &CartScan,
    most: i64,
) -> sqlx::Result<Vec<UnchangedCart>> {
    let (hour, tenant, id) = &scan.after;
    sqlx::query_file_as!(
        UnchangedCart,
        "src/workers/cart_lock_expiry/idle.sql",
        hours,
        hour,
        tenant,
        id,
        most
    )
    .fetch_all(postgres)
    .await
}

/// Sends `abandon` once, under a new Command-Id, and counts its outcome.
async fn abandon(cx: &Context, metrics: &ExpiryMetrics, cart: &Address, version: i64) -> Decision {
    let version = Some(version.cast_unsigned());
    let options = CommandOptions { expected_version: version, ..Default::default() };
    let outcome = CommandClient::new(cx, TIMEOUT).send(cart, &body(), options).await;
    let decision = outcome.and_then(|outcome| decision(&outcome));
    let label = decision.as_ref().map_or_else(NotDecided::label, AbandonDecision::label);
    metrics.idle_carts.with_label_values(&[label]).inc();
    decision
}

fn body() -> Body {
    let reason = Text::new("idle".to_owned()).expect("a short text without control characters");
    Body::Cart(cart::Verb::Abandon(Reason { reason }))
}

fn decision(outcome: &Outcome) -> Decision {
    match (outcome.status, outcome.code.as_ref()) {
        (200, _) => Ok(AbandonDecision::Abandoned),
        (404, "not_found") | (412, _) | (423, _) => Ok(AbandonDecision::Changed),
        (409, "cart_closed" | "cart_paid" | "payment_open") => Ok(AbandonDecision::Changed),
        _ => Err(NotDecided::unexpected(outcome)),
    }
}

fn log(cx: &Context, decisions: &[Decision]) {
    let is_abandoned = |decision: &&Decision| **decision == Ok(AbandonDecision::Abandoned);
    let (idle, abandoned) = (decisions.len(), decisions.iter().filter(is_abandoned).count());
    if abandoned > 0 {
        tracing::info!(worker = %cx.worker, abandoned, "idle carts abandoned");
    }
    if let Some(why) = decisions.iter().find_map(|decision| decision.as_ref().err()) {
        tracing::warn!(worker = %cx.worker, idle, abandoned, %why, "idle carts not abandoned");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{runtime::command_client::outcome, testing::Database};

    #[test]
    fn each_outcome_is_understood() {
        let decision = |status, code| decision(&outcome(status, code, None));
        assert_eq!(decision(200, "ok"), Ok(AbandonDecision::Abandoned));
        for (status, code) in [
            (412, "version_mismatch"),
            (423, "cart_locked"),
            (409, "cart_closed"),
            (409, "cart_paid"),
            (409, "payment_open"),
            (404, "not_found"),
        ] {
            assert_eq!(decision(status, code), Ok(AbandonDecision::Changed), "{code}");
        }
        assert!(matches!(decision(404, "unknown_verb"), Err(NotDecided::Refused(_))));
        assert!(matches!(decision(400, "bad_payload"), Err(NotDecided::Refused(_))));
    }

    #[test]
    fn what_is_sent_is_an_abandon() {
        let (verb, payload) = body().encode();
        assert_eq!((verb, payload.as_slice()), ("abandon", br#"{"reason":"idle"}"#.as_slice()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_scan_moves_past_full_pages_and_then_starts_over() {
        let old = |n: i64| UnchangedCart {
            tenant: "t1".into(),
            id: format!("c{n}"),
            version: 1,
            hour: 7,
            idle: true,
        };
        let mut scan = CartScan::default();
        scan.pass(&(0..PAGE).map(old).collect::<Vec<_>>());
        assert_eq!(scan.after, (7, "t1".into(), format!("c{}", PAGE - 1)));
        assert!(Instant::now() >= scan.next);
        scan.pass(&[old(1)]);
        assert_eq!(scan.after, CartScan::default().after);
        assert_eq!(scan.next - Instant::now(), SCAN_EVERY);
    }

    #[tokio::test]
    async fn s8_07_idle_carts_are_found_without_reading_the_others() -> anyhow::Result<()> {
        let database = Database::start().await?;
        let carts = |id: &str, age: &str, more: &str, count: u32| {
            format!(
                "insert into brigade.carts (tenant, id, version, updated_at, parts, parts_at, kind,
                                            owner, status, currency, members, items, changed_hour,
                                            paid, payments)
                 select 't' || n % 5, '{id}' || n, 1, at, '{{}}', '{{}}', 'menu', '{id}' || n,
                        {more}
                 from generate_series(1, {count}) n
                 cross join (select now() - interval '{age}' as at) a;"
            )
        };
        let hour = "floor(extract(epoch from at) / 3600)";
        let nothing_paid = format!("'open', 'EUR', '[]', '[]', {hour}, 0, '[]'");
        let paid = format!("'open', 'EUR', '[]', '[]', {hour}, 5, '[]'");
        let ended = format!("'checked_out', 'EUR', '[]', '[]', {hour}, 0, '[]'");
        let paying = |status: &str| {
            let payments = format!(r#"[{{"payment_id":"p1","status":"{status}"}}]"#);
            format!("'open', 'EUR', '[]', '[]', {hour}, 0, '{payments}'")
        };
        let read = async || {
            let values = "168, -1, '', '', 100";
            let types = "integer, integer, text, text, bigint";
            database.rows_read(types, include_str!("idle.sql"), values).await
        };
        // The planner takes it for empty at first.
        assert_eq!(read().await?, 0);
        for more in [
            carts("young", "6 days 22 hours", &nothing_paid, 10_000),
            carts("ended", "30 days", &ended, 10_000),
            carts("paid", "30 days", &paid, 5_000),
        ] {
            database.run(&more).await?;
            assert_eq!(read().await?, 0);
        }
        database.run(&carts("idle", "8 days", &nothing_paid, 250)).await?;
        database.run(&carts("locked", "8 days", &nothing_paid, 3)).await?;
        database.run(&carts("paying", "8 days", &paying("initiated"), 3)).await?;
        database.run(&carts("unknown", "8 days", &paying("unknown"), 3)).await?;
        database.run(&carts("failed", "8 days", &paying("failed"), 3)).await?;
        // From before the hour was recorded.
        let unrecorded = "'open', 'EUR', '[]', '[]', 0, 0, '[]'";
        database.run(&carts("unrecorded", "8 days", unrecorded, 3)).await?;
        database.run(&carts("youngster", "1 day", unrecorded, 3)).await?;
        database
            .run(
                "insert into brigade.cart_locks
                     (tenant, owner, version, updated_at, state, cart_id, token, method,
                      acquired_at, expires_at, fingerprint, amount)
                 select tenant, owner, 1, now(),
                        case when owner = 'locked3' then 'released' else 'held' end, 'other', 1,
                        'card', now(), now(), '', 0
                 from brigade.carts where starts_with(id, 'locked')",
            )
            .await?;
        for more in ["select", "analyze brigade.carts"] {
            database.run(more).await?;
            let read = read().await?;
            assert!((100..=210).contains(&read), "{read} rows for 100 carts and their locks");
        }
        // All of them, each once.
        let (mut scan, mut pages, mut found) = (CartScan::default(), 0, Vec::new());
        let mut connection = database.sql.acquire().await?;
        loop {
            let page = page(&mut connection, 168, &scan, PAGE).await?;
            scan.pass(&page);
            pages += 1;
            found.extend(page.into_iter().filter(|cart| cart.idle).map(|cart| cart.id));
            if scan.after == CartScan::default().after {
                break;
            }
        }
        let count = |prefix| found.iter().filter(|id| id.starts_with(prefix)).count();
        assert_eq!((pages, count("idle"), count("failed"), count("unrecorded")), (3, 250, 3, 3));
        assert_eq!((count("locked"), found.contains(&"locked3".to_owned())), (1, true));
        assert_eq!(found.len(), 257);
        Ok(())
    }
}
