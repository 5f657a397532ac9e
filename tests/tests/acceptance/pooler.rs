//! S5-12: a PgBouncer in transaction mode between the workers and Postgres: each transaction, and each
//! statement outside of one, may be given another session of the server.

use brigade_contracts::WorkerName;
use brigade_tests::{TestFleet, check, workload};

#[tokio::test(flavor = "multi_thread")]
async fn s5_12_a_fleet_works_behind_a_pooler_that_gives_each_transaction_any_session() {
    let mut fleet = TestFleet::empty().await;
    if !fleet.database.put_pgbouncer_between().await.expect("a PgBouncer") {
        return;
    }
    // Two of each, so that shares and leases are divided, too.
    fleet.run_all().await;
    fleet.run_all().await;
    workload::run(&fleet, "a", 24).await;
    fleet.until_idle().await;
    // Each has 4 connections to the pooler, and all of a role together 2 to the server.
    for worker in WorkerName::ALL {
        let sessions: i64 = sqlx::query_scalar(
            "select count(*) from pg_stat_activity
             where datname = current_database() and usename = $1",
        )
        .bind(worker.as_str())
        .fetch_one(&fleet.sql)
        .await
        .expect("a count");
        assert!(sessions <= 2, "{worker}: {sessions} sessions");
    }
    check::invariants(&fleet).await;
    fleet.finish().await;
}
