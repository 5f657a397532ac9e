//! The look for idle carts, which nobody will end.
//!
//! A cart is **idle** when it is open, nobody has changed it for `BRIGADE_IDLE_CART_HOURS`, nothing
//! is paid for it, no payment of it is open, and its owner holds no lock. A round goes through the
//! carts that have not changed for so long, page by page from the oldest, and asks command-handler
//! to `abandon` those that are idle, with the version that was seen: it looks again under its
//! locks, so that a cart which changes at the same moment stays. Whatever is answered, the round
//! goes on with the next page, so that a cart of which nothing can come keeps nobody else.

use std::time::Duration;

use async_nats::{HeaderMap, Request};
use brigade_contracts::{Address, Aggregate, Outcome, header, subject};
use futures::future::join_all;
use sqlx::PgConnection;
use tokio::time::{Instant, MissedTickBehavior, interval};
use uuid::Uuid;

use crate::infra::{
    Context, Lease,
    lease::{Fitness, RENEW},
    postgres::{Failure, bounded, failure},
};

const LEASE: &str = "cart-lock-expiry.idle-carts";
/// Carts of a page, of which there is one each [`RENEW`].
const PAGE: i64 = 100;
/// How often a round begins, at most.
const EVERY: Duration = Duration::from_secs(10);
/// An answer takes milliseconds. What is not answered by then is found again.
const PATIENCE: Duration = Duration::from_secs(2);
/// The payload of `abandon`.
const PAYLOAD: &[u8] = br#"{"reason":"idle"}"#;

/// A cart that has not changed for long.
#[derive(Debug, PartialEq)]
struct Old {
    tenant: String,
    id: String,
    version: i64,
    /// Of its last change, since 1970; 0 where that is not known.
    hour: i32,
    idle: bool,
}

/// What came of asking.
#[derive(Debug, PartialEq, Eq)]
enum Asked {
    Abandoned,
    /// It is not as it was any more.
    Changed,
    /// Nobody decides now.
    Away(String),
    /// An answer that nobody expects.
    Refused(String),
}

impl Asked {
    fn as_str(&self) -> &'static str {
        match self {
            Self::Abandoned => "abandoned",
            Self::Changed => "changed",
            Self::Away(_) => "away",
            Self::Refused(_) => "refused",
        }
    }
}

/// A way through the carts that have not changed for long.
struct Round {
    /// The last cart of the page before: hour, tenant, id.
    after: (i32, String, String),
    /// When the next page is due.
    next: Instant,
}

impl Default for Round {
    fn default() -> Self {
        Self { after: (-1, String::new(), String::new()), next: Instant::now() }
    }
}

impl Round {
    /// Goes past a page; past the last one begins another round.
    fn pass(&mut self, page: &[Old]) {
        match page.last() {
            Some(last) if page.len() as i64 == PAGE => {
                self.after = (last.hour, last.tenant.clone(), last.id.clone());
            }
            _ => *self = Self { next: Instant::now() + EVERY, ..Self::default() },
        }
    }
}

/// Looks for idle carts, under the lease, until the drain.
pub async fn keep(cx: Context, hours: u16) {
    let duty = cx.health.duty("idle carts");
    let (mut round, mut fitness) = (Round::default(), Fitness::default());
    let mut tick = interval(RENEW);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            () = cx.drain.cancelled() => return,
        }
        match step(&cx, hours, &mut round, &mut fitness).await {
            Ok(()) => duty.moved(),
            Err(error) => {
                duty.went_round();
                if failure(&error) == Failure::Fault {
                    tracing::error!(worker = %cx.worker, %error, "cannot look for idle carts");
                }
                // Of a Postgres that is away the look for locks tells.
            }
        }
    }
}

/// Ends the idle carts of the next page, if it is due.
async fn step(
    cx: &Context,
    hours: u16,
    round: &mut Round,
    fitness: &mut Fitness,
) -> sqlx::Result<()> {
    if !Lease::hold(cx, LEASE, fitness).await? || Instant::now() < round.next {
        return Ok(());
    }
    let hours = i32::from(hours);
    let page = bounded(&cx.postgres, async |c| page(c, hours, round, PAGE).await).await?;
    round.pass(&page);
    let idle = page.iter().filter(|cart| cart.idle).filter_map(|cart| {
        let address = Address::new(&cart.tenant, Aggregate::Cart, &cart.id).ok()?;
        Some((address, cart.version))
    });
    let idle: Vec<(Address, i64)> = idle.collect();
    if idle.is_empty() {
        fitness.works();
        return Ok(());
    }
    cx.fail.point("cart-lock-expiry.before_abandon").await;
    let asked = join_all(idle.iter().map(|(cart, version)| abandon(cx, cart, *version))).await;
    let away = |asked: &Asked| matches!(asked, Asked::Away(_));
    if asked.iter().all(away) {
        fitness.fails()
    } else {
        fitness.works()
    }
    tell(cx, &asked);
    Ok(())
}

async fn page(
    postgres: &mut PgConnection,
    hours: i32,
    round: &Round,
    most: i64,
) -> sqlx::Result<Vec<Old>> {
    let (hour, tenant, id) = &round.after;
    sqlx::query_file_as!(
        Old,
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

/// Asks once, under a new Command-Id: what an earlier one was answered says nothing about now.
async fn abandon(cx: &Context, cart: &Address, version: i64) -> Asked {
    let mut headers = HeaderMap::new();
    headers.insert(header::COMMAND_ID, Uuid::now_v7().to_string());
    headers.insert(header::ACTOR, cx.worker.as_str());
    headers.insert(header::EXPECTED_VERSION, version.to_string());
    let request = Request::new().headers(headers).payload(PAYLOAD.into()).timeout(Some(PATIENCE));
    let asked = match cx.nats.client.send_request(subject::abandon(cart), request).await {
        Ok(answer) => read(&answer.payload),
        Err(error) => Asked::Away(format!("command-handler: {error}")),
    };
    cx.metrics.idle_carts.with_label_values(&[asked.as_str()]).inc();
    asked
}

fn read(answer: &[u8]) -> Asked {
    let Ok(Outcome { status, code, .. }) = serde_json::from_slice::<Outcome>(answer) else {
        return Asked::Refused("an answer that is no outcome".to_owned());
    };
    match (status, code.as_ref()) {
        (200, _) => Asked::Abandoned,
        (404, "not_found") | (412, _) | (423, _) => Asked::Changed,
        (409, "cart_closed" | "cart_paid" | "payment_open") => Asked::Changed,
        (429 | 503, _) => Asked::Away(format!("command-handler: {code}")),
        _ => Asked::Refused(format!("{status} {code}")),
    }
}

fn tell(cx: &Context, asked: &[Asked]) {
    let abandoned = asked.iter().filter(|asked| **asked == Asked::Abandoned).count();
    if abandoned > 0 {
        tracing::info!(worker = %cx.worker, abandoned, "idle carts abandoned");
    }
    if let Some(why) = asked.iter().find_map(|asked| match asked {
        Asked::Away(why) | Asked::Refused(why) => Some(why),
        Asked::Abandoned | Asked::Changed => None,
    }) {
        tracing::warn!(worker = %cx.worker, idle = asked.len(), abandoned, why, "carts stay idle");
    }
}

#[cfg(test)]
mod tests {
    use brigade_contracts::{Body, Command, cart};
    use serde_json::json;

    use super::*;
    use crate::testing::Database;

    fn answered(status: u16, code: &str) -> Asked {
        let outcome = json!({
            "command_id": "k1", "status": status, "code": code, "message": "", "aggregate": "cart",
            "id": "c1", "version": 7, "etag": null, "effects": [], "data": {},
            "retry_after_ms": null,
        });
        read(outcome.to_string().as_bytes())
    }

    #[test]
    fn each_outcome_is_understood() {
        assert_eq!(answered(200, "ok"), Asked::Abandoned);
        for (status, code) in [
            (412, "version_mismatch"),
            (423, "cart_locked"),
            (409, "cart_closed"),
            (409, "cart_paid"),
            (409, "payment_open"),
            (404, "not_found"),
        ] {
            assert_eq!(answered(status, code), Asked::Changed, "{code}");
        }
        assert!(matches!(answered(503, "busy"), Asked::Away(_)));
        assert!(matches!(answered(429, "too_many"), Asked::Away(_)));
        assert!(matches!(answered(404, "unknown_verb"), Asked::Refused(_)));
        assert!(matches!(answered(400, "bad_payload"), Asked::Refused(_)));
        assert!(matches!(read(b"not JSON"), Asked::Refused(_)));
    }

    #[test]
    fn what_is_sent_is_an_abandon() {
        let cart = Address::new("t1", Aggregate::Cart, "c1").unwrap();
        let headers = [(header::COMMAND_ID, "k1"), (header::EXPECTED_VERSION, "7")];
        let command =
            Command::decode(&subject::abandon(&cart), headers.into_iter(), PAYLOAD).unwrap();
        let request = command.request.unwrap();
        assert_eq!((request.address, request.expected_version), (cart, Some(7)));
        let Body::Cart(cart::Verb::Abandon(said)) = request.body else { panic!("another verb") };
        assert_eq!(said.reason.as_str(), "idle");
    }

    #[tokio::test(start_paused = true)]
    async fn a_round_goes_past_full_pages_and_then_begins_anew() {
        let old = |n: i64| Old {
            tenant: "t1".into(),
            id: format!("c{n}"),
            version: 1,
            hour: 7,
            idle: true,
        };
        let mut round = Round::default();
        round.pass(&(0..PAGE).map(old).collect::<Vec<_>>());
        assert_eq!(round.after, (7, "t1".into(), format!("c{}", PAGE - 1)));
        assert!(Instant::now() >= round.next);
        round.pass(&[old(1)]);
        assert_eq!(round.after, Round::default().after);
        assert_eq!(round.next - Instant::now(), EVERY);
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
        // Of the time before the hour was noted.
        let unnoted = "'open', 'EUR', '[]', '[]', 0, 0, '[]'";
        database.run(&carts("unnoted", "8 days", unnoted, 3)).await?;
        database.run(&carts("youngster", "1 day", unnoted, 3)).await?;
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
        let (mut round, mut pages, mut found) = (Round::default(), 0, Vec::new());
        let mut connection = database.sql.acquire().await?;
        loop {
            let page = page(&mut connection, 168, &round, PAGE).await?;
            round.pass(&page);
            pages += 1;
            found.extend(page.into_iter().filter(|cart| cart.idle).map(|cart| cart.id));
            if round.after == Round::default().after {
                break;
            }
        }
        let count = |prefix| found.iter().filter(|id| id.starts_with(prefix)).count();
        assert_eq!((pages, count("idle"), count("failed"), count("unnoted")), (3, 250, 3, 3));
        assert_eq!((count("locked"), found.contains(&"locked3".to_owned())), (1, true));
        assert_eq!(found.len(), 257);
        Ok(())
    }
}
