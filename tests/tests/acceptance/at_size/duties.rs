//! A duty reads a bounded number of rows, however many there are.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use brigade_tests::TestFleet;
use serde_json::json;
use sqlx::AssertSqlSafe;
use tokio::time::{MissedTickBehavior, interval};

use super::{beside, figure, quiet, size};

/// The table of aggregates whose newest version may not stand in KV yet.
const BACKLOG: &str = "projection_backlog";
/// Rows of it.
const ENTRIES: usize = 2_000_000;
/// Of these, so many are of carts and tables, the others of locks that are long gone.
const CARTS: usize = 400_000;
/// Tables, each with an open turn.
const TURNS: usize = 100_000;
const EVENTS: usize = 1_000_000;

async fn run(fleet: &TestFleet, statement: String) {
    let began = Instant::now();
    let statement = sqlx::raw_sql(AssertSqlSafe(statement));
    let done = statement.execute(&fleet.sql).await.unwrap();
    figure(&format!("{} rows in {:.1?}", done.rows_affected(), began.elapsed()));
}

/// Fills the tables with copies of what one cart and one table at which somebody sits look like.
async fn fill(fleet: &TestFleet, turns: usize, events: usize) {
    let producer = fleet.producer().await;
    producer.cart_of("c1", "menu", "ada", &[("i1", 500, 1)]).await;
    producer.done("table.t1.register", json!({ "label": "1", "seats": 4 })).await;
    producer.done("table.t1.open_turn", json!({ "turn_id": "u1" })).await;
    fleet.until_idle().await;
    let copies = |table: &str, changed: &str, copied: &str, count: usize| {
        format!(
            "insert into brigade.{table} select (jsonb_populate_record(c, jsonb_build_object(
                 {changed}))).*
             from brigade.{table} c cross join generate_series(1, {count}) n where c.id = '{copied}'"
        )
    };
    let owned = "'id', 'b' || n, 'owner', 'o' || n";
    run(fleet, copies("carts", owned, "c1", CARTS)).await;
    let table = "'id', 'b' || n, 'open_turn_id', 'u' || n || 'b'";
    run(fleet, copies("tables", table, "t1", turns)).await;
    let turn = "'id', 'u' || n || 'b', 'table_id', 'b' || n";
    run(fleet, copies("turns", turn, "u1", turns)).await;
    let of_past = format!(
        "insert into brigade.events
             (event_id, tenant, aggregate, id, version, type, payload, at, command_id)
         select gen_random_uuid(), e.tenant, 'cart', 'b' || n % {CARTS}, 3 + n / {CARTS}, e.type,
                e.payload, e.at - interval '1 day' - n * interval '1 second', 'past'
         from (select * from brigade.events where id = 'c1' order by seq limit 1) e
         cross join generate_series(1, {events}) n"
    );
    run(fleet, of_past).await;
    run(fleet, "analyze".to_owned()).await;
}

/// Rows that were read of each table so far, and deleted from the backlog.
async fn rows_read(fleet: &TestFleet) -> (BTreeMap<String, i64>, i64) {
    let read: Vec<(String, i64, i64)> = sqlx::query_as(
        "select relname::text, seq_tup_read + coalesce(idx_tup_fetch, 0), n_tup_del
         from pg_stat_user_tables where schemaname = 'brigade'",
    )
    .fetch_all(&fleet.sql)
    .await
    .unwrap();
    let deleted = read.iter().find(|(table, ..)| table == BACKLOG).expect("the backlog").2;
    (read.into_iter().map(|(table, rows, _)| (table, rows)).collect(), deleted)
}

/// The most rows of each table that were read in a second, over windows of so many seconds.
struct Reads {
    before: BTreeMap<String, i64>,
    first: BTreeMap<String, i64>,
    began: Instant,
    at: Instant,
    most: BTreeMap<String, f64>,
}

impl Reads {
    async fn begin(fleet: &TestFleet) -> Self {
        let (first, _) = rows_read(fleet).await;
        let (began, most) = (Instant::now(), BTreeMap::new());
        Self { before: first.clone(), first, began, at: began, most }
    }

    fn add(&mut self, now: BTreeMap<String, i64>) {
        let seconds = self.at.elapsed().as_secs_f64();
        for (table, rows) in &now {
            let rate = (rows - self.before.get(table).unwrap_or(&0)) as f64 / seconds;
            let most = self.most.entry(table.clone()).or_default();
            *most = most.max(rate);
        }
        (self.before, self.at) = (now, Instant::now());
    }

    /// Prints rows a second: on average, and of the worst window.
    fn print(&self, when: &str) {
        let seconds = self.began.elapsed().as_secs_f64();
        figure(&format!("{when}: rows read a second over {seconds:.0} s (average, most)"));
        for (table, rows) in &self.before {
            let average = (rows - self.first.get(table).unwrap_or(&0)) as f64 / seconds;
            if average >= 0.05 {
                println!("    {table:<24} {average:>9.1} {:>9.1}", self.most[table]);
            }
        }
    }

    fn most_of(&self, table: &str) -> f64 {
        self.most.get(table).copied().unwrap_or_default()
    }
}

const WINDOW: Duration = Duration::from_secs(10);

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes; run by hand: millions of rows"]
async fn duties_read_a_bounded_number_of_rows_however_many_there_are() {
    let entries = size("BRIGADE_TEST_ENTRIES", ENTRIES);
    let turns = size("BRIGADE_TEST_TURNS", TURNS);
    let events = size("BRIGADE_TEST_EVENTS", EVENTS);
    let fleet = Arc::new(TestFleet::start().await);
    fill(&fleet, turns, events).await;
    let empty = quiet(&fleet).await;
    let mut tick = interval(WINDOW);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    tick.tick().await;
    let mut reads = Reads::begin(&fleet).await;
    for _ in 0..9 {
        tick.tick().await;
        reads.add(rows_read(&fleet).await.0);
    }
    reads.print("without a backlog");
    assert!(reads.most_of("events") < 10_000.0, "history is read");
    assert!(reads.most_of("turns") < 3.0 * 4_000.0, "more turns are read than a round may");

    let (_, before) = rows_read(&fleet).await;
    let noted = format!(
        "insert into brigade.{BACKLOG} (tenant, aggregate, id, version, at)
         select 't1', 'cart', 'b' || n, 2, now() from generate_series(1, {CARTS}) n
         union all
         select 't1', 'table', 'b' || n, 2, now() from generate_series(1, {turns}) n
         union all
         select 't1', 'lock', 'gone' || n, 1, now()
         from generate_series(1, {entries} - {CARTS} - {turns}) n"
    );
    run(&fleet, noted).await;
    let began = Instant::now();
    let mut reads = Reads::begin(&fleet).await;
    let drained = async {
        let (mut left, mut stuck) = (entries as i64, 0);
        while left > 0 {
            tick.tick().await;
            let (now, deleted) = rows_read(&fleet).await;
            reads.add(now);
            let was = left;
            left = entries as i64 - (deleted - before);
            stuck = if left < was { 0 } else { stuck + 1 };
            figure(&format!("{left} entries are left after {:.0?}", began.elapsed()));
            assert!(stuck < 18, "the backlog stands at {left}");
        }
    };
    let (times, ()) = beside(&fleet, "backlog", drained).await;
    reads.print("while the backlog is projected");
    let entries_a_second = entries as f64 / began.elapsed().as_secs_f64();
    figure(&format!("{entries} entries in {:.0?}: {entries_a_second:.0}/s", began.elapsed()));
    times.print("beside the backlog");
    times.compare(&empty);
    // Each entry is read when it is found and when it is deleted, and now and then by who waits.
    let most = reads.most_of(BACKLOG);
    assert!(most < 20.0 * entries_a_second.max(1000.0), "{most} entries were read in a second");
    let left: i64 =
        sqlx::query_scalar(AssertSqlSafe(format!("select count(*) from brigade.{BACKLOG}")))
            .fetch_one(&fleet.sql)
            .await
            .unwrap();
    assert!(left < 100, "{left} entries are left");
}
