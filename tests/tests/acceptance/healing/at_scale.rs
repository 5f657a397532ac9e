//! S6-03: healing goes on where it stopped, holds up nobody, and finds a loss in the middle.

use async_nats::jetstream;
use brigade_contracts::WorkerName;
use brigade_tests::{Producer, TestFleet, check, process::Process, producer::placed, until};
use serde_json::json;
use sqlx::AssertSqlSafe;

use super::{backlog::until_projected_again, heals, until_healed};

/// Makes so many copies of the cart `c` with all of its events.
pub async fn copy_carts(fleet: &TestFleet, count: u32) {
    let copies = format!(
        "insert into brigade.carts
         select (jsonb_populate_record(c, jsonb_build_object('id', 'c' || n))).*
         from brigade.carts c, generate_series(1, {count}) n;
         insert into brigade.events
             (event_id, tenant, aggregate, id, version, type, payload, at, command_id)
         select gen_random_uuid(), tenant, aggregate, 'c' || n, version, type, payload, at, command_id
         from brigade.events e, generate_series(1, {count}) n order by n, version;
         analyze;"
    );
    sqlx::raw_sql(AssertSqlSafe(copies)).execute(&fleet.sql).await.expect("copied");
}

/// A heal as it stands in SQL: rows walked, aggregates, events, whether it is finished.
type StoredHeal = (i64, i64, i64, bool);

async fn stored_heals(fleet: &TestFleet) -> Vec<StoredHeal> {
    let stored = "select walked, aggregates, events, finished_at is not null
                  from brigade.heals order by id";
    sqlx::query_as(stored).fetch_all(&fleet.sql).await.expect("sql")
}

#[tokio::test]
async fn s6_03_healing_goes_on_where_it_stopped() {
    const COPIES: u32 = 4_499;
    const BATCH: i64 = 2_000;
    let mut fleet = TestFleet::start().await;
    fleet.producer().await.team_cart("c", "ada", &["bob"]).await;
    fleet.until_idle().await;
    until_healed(&fleet).await;
    fleet.take(WorkerName::CacheVerifier).stop().await;
    copy_carts(&fleet, COPIES).await;
    let js = jetstream::new(fleet.connect("operator").await);
    for bucket in ["KV_versions", "KV_views"] {
        js.delete_stream(bucket).await.expect("deleted");
    }
    // Two instances, which are killed after a batch each.
    for batches in 1..=2 {
        let point = Some("cache-verifier.after_batch");
        let mut dying = Process::start(&fleet, &[WorkerName::CacheVerifier], point).await;
        assert!(!dying.ended().await.success(), "it dies after batch {batches}");
        let done = batches * BATCH;
        assert_eq!(stored_heals(&fleet).await, [(done, done, 0, false)]);
    }
    fleet.run(WorkerName::CacheVerifier).await;
    until_healed(&fleet).await;
    fleet.until_idle().await;
    // Each cart was put there once, and its part `payments`: it was walked over twice.
    let carts = i64::from(COPIES) + 1;
    assert_eq!(stored_heals(&fleet).await, [(2 * carts, carts, carts, true)]);
    check::kv_equals_sql(&fleet).await;
    assert_eq!(check::dead_letters(&fleet).await.len(), 0);
}

#[tokio::test]
async fn s6_03_a_loss_in_the_middle_of_events_is_published_again() {
    let fleet = TestFleet::start().await;
    let (t1, t2) = (fleet.producer().await, second(&fleet).await);
    for cart in ["c1", "c2"] {
        t2.team_cart(cart, "ada", &["bob"]).await;
        t1.team_cart(cart, "ada", &["bob"]).await;
    }
    t2.team_cart("c3", "ada", &["bob"]).await;
    fleet.until_idle().await;
    until_healed(&fleet).await;
    let js = jetstream::new(fleet.connect("operator").await);
    let events = js.get_stream("EVENTS").await.expect("the stream");
    let purged = events.purge().filter("evt.t1.>").await.expect("purged");
    assert_eq!(purged.purged, 4, "of t1, and neither the first nor the last");
    until("the loss to be found", || async { (heals(&fleet, "EVENTS") == 1).then_some(()) }).await;
    until_healed(&fleet).await;
    fleet.until_idle().await;
    check::events_are_in_the_stream_at_least_once(&fleet).await;
    // The hole stays until it goes by age, and is no loss any more.
    until_healed(&fleet).await;
    until_healed(&fleet).await;
    assert_eq!((heals(&fleet, "EVENTS"), stored_heals(&fleet).await.len()), (1, 1));
    // Another one is.
    let purged = events.purge().filter("evt.t2.cart.member_joined.*").await.expect("purged");
    assert!(purged.purged > 0);
    until("the next loss", || async { (heals(&fleet, "EVENTS") == 2).then_some(()) }).await;
    until_healed(&fleet).await;
    fleet.until_idle().await;
    check::events_are_in_the_stream_at_least_once(&fleet).await;
    check::kv_equals_sql(&fleet).await;
}

async fn second(fleet: &TestFleet) -> Producer {
    Producer::new(fleet.connect("t2-producer").await, "t2")
}

async fn count(fleet: &TestFleet, of: &str) -> i64 {
    let counted = format!("select count(*) from brigade.{of}");
    sqlx::query_scalar(AssertSqlSafe(counted)).fetch_one(&fleet.sql).await.expect("sql")
}

/// Takes the lease of the heal backlog away from everybody, or frees it.
async fn hold_heal_backlog(fleet: &TestFleet, held: bool) {
    let change = if held {
        "insert into brigade.leases values
             ('command-handler.heal-backlog', 'nobody', clock_timestamp() + interval '1 hour')
         on conflict (name) do update set holder = excluded.holder, until = excluded.until"
    } else {
        "delete from brigade.leases where holder = 'nobody'"
    };
    sqlx::raw_sql(change).execute(&fleet.sql).await.expect("sql");
}

/// What a command changes is projected while much is to be healed, and takes away no entry of what is
/// to be healed: of what it does not touch nobody has written anything yet.
#[tokio::test]
async fn s6_03_commands_and_heals_wait_for_each_other_in_nothing() {
    let fleet = TestFleet::start_without(WorkerName::CacheVerifier).await;
    let producer = fleet.producer().await;
    producer.team_cart("c", "ada", &["bob"]).await;
    producer.done("order.o1.place", placed(&[("Soup", 500, 1)])).await;
    fleet.until_idle().await;
    hold_heal_backlog(&fleet, true).await;
    // What was under way with the lease ends with it.
    let entries = "insert into brigade.heal_backlog
                   select 't1', 'cart', 'lost' || n, clock_timestamp()
                   from generate_series(1, 5000) n";
    until("the lease to be nobody's", || async {
        sqlx::raw_sql(entries).execute(&fleet.sql).await.expect("sql");
        let left = count(&fleet, "heal_backlog").await == 5000;
        sqlx::query("delete from brigade.heal_backlog").execute(&fleet.sql).await.expect("sql");
        left.then_some(())
    })
    .await;
    sqlx::raw_sql(entries).execute(&fleet.sql).await.expect("sql");
    until_projected_again(&fleet, "c").await;

    let js = jetstream::new(fleet.connect("operator").await);
    let views = js.get_stream("KV_views").await.expect("the bucket");
    views.purge().filter("$KV.views.t1.order.o1.core").await.expect("purged");
    let entry = "insert into brigade.heal_backlog values ('t1', 'order', 'o1', clock_timestamp())";
    sqlx::raw_sql(entry).execute(&fleet.sql).await.expect("sql");
    let pay = json!({ "target": { "order": "o1" }, "method": "card" });
    producer.done("payment.p1.initiate", pay).await;
    until("the change to be projected", || async {
        (count(&fleet, "projection_backlog").await == 0).then_some(())
    })
    .await;
    assert_eq!(count(&fleet, "heal_backlog where id = 'o1'").await, 1);
    assert_eq!(check::kv(&fleet, "views", "t1.order.o1.core").await, None, "it was not touched");
    hold_heal_backlog(&fleet, false).await;
    fleet.finish().await;
}

/// So an event of the moment waits for no more than some thousands of old ones, and whoever goes on
/// puts none there twice.
#[tokio::test]
async fn s6_03_old_events_are_put_into_the_outbox_no_faster_than_they_leave_it() {
    const EVENTS: i64 = 12_000;
    let mut fleet = TestFleet::start().await;
    let producer = fleet.producer().await;
    producer.cart_of("c1", "menu", "ada", &[("i1", 500, 1)]).await;
    fleet.until_idle().await;
    until_healed(&fleet).await;
    fleet.take(WorkerName::OutboxRelay).stop().await;
    let of_past = format!(
        "insert into brigade.events
             (event_id, tenant, aggregate, id, version, type, payload, at, command_id)
         select gen_random_uuid(), e.tenant, e.aggregate, 'past' || n, 1, e.type, e.payload, e.at,
                'past'
         from (select * from brigade.events where type = 'item_added' limit 1) e
         cross join generate_series(1, {EVENTS}) n"
    );
    sqlx::raw_sql(AssertSqlSafe(of_past)).execute(&fleet.sql).await.expect("sql");
    let js = jetstream::new(fleet.connect("operator").await);
    js.delete_stream("EVENTS").await.expect("deleted");
    until("the stream to be there again", || async { js.get_stream("EVENTS").await.ok() }).await;
    until("old events in the outbox", || async {
        (count(&fleet, "outbox").await >= 4_000).then_some(())
    })
    .await;
    fleet.take(WorkerName::CacheVerifier).stop().await;
    let waiting = count(&fleet, "outbox").await;
    assert!(waiting <= 6_000, "{waiting}");
    producer.done("cart.c1.add_item", brigade_tests::producer::item("i2", 100, 1)).await;
    fleet.run(WorkerName::OutboxRelay).await;
    fleet.run(WorkerName::CacheVerifier).await;
    until_healed(&fleet).await;
    fleet.until_idle().await;
    let stored = stored_heals(&fleet).await;
    // The two of the cart, and those of the past; the one that came later is none of them.
    assert_eq!(stored, [(EVENTS + 2, 0, EVENTS + 2, true)]);
    check::events_are_in_the_stream_at_least_once(&fleet).await;
}

#[tokio::test]
async fn s6_03_a_round_of_the_audit_goes_on_with_another_instance() {
    let mut fleet = TestFleet::start().await;
    fleet.producer().await.team_cart("c", "ada", &["bob"]).await;
    let sql = fleet.sql.clone();
    let finished = async |began: &str| -> Option<()> {
        let finished = format!(
            "select coalesce(last_finished_at > last_began_at, false) from brigade.audit_rounds where {began}"
        );
        let finished = sqlx::query_scalar::<_, bool>(AssertSqlSafe(finished));
        finished.fetch_optional(&sql).await.expect("sql")?.then_some(())
    };
    until("a whole round", || finished("audit = 'kv'")).await;
    fleet.stop_one(WorkerName::CacheVerifier).await;
    // As if it had come to the last kind.
    let moved = r#"update brigade.audit_rounds set began_at = '2026-01-01',
                   position = '{"kind": "user", "after": ["", ""]}'"#;
    sqlx::raw_sql(moved).execute(&fleet.sql).await.expect("sql");
    fleet.run(WorkerName::CacheVerifier).await;
    until("that round", || finished("last_began_at = '2026-01-01'")).await;
    until("its metrics", || async {
        let text = fleet.metrics.render();
        let seconds = text.lines().find(|l| l.starts_with("brigade_audit_round_seconds "))?;
        let seconds: i64 = seconds.rsplit(' ').next()?.parse().ok()?;
        (seconds > 1_000_000).then_some(())
    })
    .await;
}
