//! The release before on the schema, the permissions and the messages of the present one, as far as
//! that can be seen without its program; and with its program beside the present one.

use std::{collections::BTreeSet, sync::LazyLock, time::Duration};

use brigade::{operations::migrate, testing::TestDatabase};
use brigade_dev::chaos::{ChaosPlan, PreviousRelease, play};
use brigade_tests::{
    HttpClient, TestFleet,
    interop::or_skip,
    previous::{self, OWNER, columns, explain, golden, nats_permissions, record, workspace},
    process::launch,
};
use serde_json::Value;
use sqlx::{Connection, PgConnection, raw_sql};

fn texts(list: &Value) -> impl Iterator<Item = &str> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str)
}

#[tokio::test]
async fn s6_04_statements_of_the_release_before_run_on_the_present_schema() {
    let database = TestDatabase::start().await.unwrap();
    // As an operator leaves it until the last process of the release before is gone.
    migrate::run_beside_former(&database.url, "", |_| None).await.unwrap();
    let mut connection = PgConnection::connect(&database.url).await.unwrap();
    let record = record();
    let statements = record["statements"].as_array().unwrap();
    assert!(statements.len() > 100, "{} statements", statements.len());
    let mut refused = Vec::new();
    for kept in statements {
        let statement = kept["statement"].as_str().unwrap();
        for role in texts(&kept["roles"]).chain([OWNER]) {
            if let Err(error) = explain(&mut connection, role, statement).await {
                refused.push(format!("{role}: {error}: {statement}"));
            }
        }
    }
    assert!(refused.is_empty(), "{refused:#?}");
}

/// What the release before inserts has no value for a column that it does not know.
#[tokio::test]
async fn s6_04_columns_are_added_so_that_the_release_before_may_leave_them_out() {
    let database = TestDatabase::start().await.unwrap();
    let mut connection = PgConnection::connect(&database.url).await.unwrap();
    let record = record();
    let known: BTreeSet<_> = texts(&record["columns"]).collect();
    let tables: BTreeSet<_> = known.iter().filter_map(|column| column.split('.').next()).collect();
    assert!(tables.len() > 20, "{} tables", tables.len());
    let present = columns(&mut connection).await.unwrap();
    for column in &known {
        assert!(present.contains_key(*column), "the release before uses {column}");
    }
    for (column, is_required) in &present {
        let table = column.split('.').next().unwrap();
        let is_new = tables.contains(table) && !known.contains(column.as_str());
        assert!(!is_new || !is_required, "the release before inserts no {column}");
    }
}

/// Golden messages are decoded by `contracts/tests/golden.rs`.
#[test]
fn s6_04_golden_messages_of_the_release_before_are_as_they_were() {
    let (record, present) = (record(), golden(&workspace()).unwrap());
    let kept = record["golden"].as_object().unwrap();
    assert!(kept.len() > 100, "{} messages", kept.len());
    for (name, hash) in kept {
        assert_eq!(present.get(name).map(String::as_str), hash.as_str(), "{name}");
    }
}

/// Returns whether a subject may match both.
fn overlap(one: &str, other: &str) -> bool {
    let (mut one, mut other) = (one.split('.'), other.split('.'));
    loop {
        match (one.next(), other.next()) {
            (Some(">"), Some(_)) | (Some(_), Some(">")) | (None, None) => return true,
            (Some(a), Some(b)) if a == b || a == "*" || b == "*" => {}
            _ => return false,
        }
    }
}

/// What nobody sends in the release before, so nobody of it needs it.
const NEW_SUBJECTS: [&str; 1] = ["live.money.TENANT.>"];

#[test]
fn s6_04_users_of_nats_keep_what_the_release_before_needs() {
    let (record, present) = (record(), nats_permissions(&workspace()).unwrap());
    let kept = record["nats"].as_object().unwrap();
    assert!(kept.len() > 10, "{} users", kept.len());
    for (user, before) in kept {
        let after = present.get(user).unwrap_or_else(|| panic!("{user} is gone"));
        for way in ["publish", "subscribe"] {
            let list = |of: &'_ Value, which: &str| -> BTreeSet<String> {
                texts(&of[way][which]).map(str::to_owned).collect()
            };
            let missing = &list(before, "allow") - &list(after, "allow");
            assert!(missing.is_empty(), "{user} may no longer {way} {missing:?}");
            let mut denied = &list(after, "deny") - &list(before, "deny");
            let allowed = list(before, "allow");
            denied.retain(|subject| {
                let was_allowed = allowed.iter().any(|allowed| overlap(allowed, subject));
                was_allowed && !NEW_SUBJECTS.contains(&subject.as_str())
            });
            assert!(denied.is_empty(), "{user} may no longer {way} {denied:?}");
        }
    }
}

/// The release before knows one session of a user, which stands in columns of its own.
#[tokio::test]
async fn s6_04_a_logout_by_the_release_before_ends_every_session() {
    let fleet = TestFleet::start().await;
    let http = fleet.http_client().await;
    let phone = http.register_and_log_in("ada").await;
    let tablet = http.log_in("ada").await;
    let is_in = async |device: &HttpClient| device.get("user/ada", &[]).await.status == 200;
    assert!(is_in(&phone).await && is_in(&tablet).await);
    let logout = "update brigade.users
                  set session_hash = null, access_hash = null, access_expires_at = null,
                      refresh_hash = null, refresh_expires_at = null, rotated_hash = null,
                      rotated_by = null";
    sqlx::query(logout).execute(&fleet.sql).await.unwrap();
    assert!(!is_in(&phone).await && !is_in(&tablet).await);
    let next = http.log_in("ada").await;
    assert!(is_in(&next).await && !is_in(&phone).await);
    let listed = next.get("user/ada/sessions", &[]).await.body();
    assert_eq!(listed["sessions"].as_array().map(Vec::len), Some(1), "{listed}");
    fleet.finish().await;
}

/// One of each kind that strikes processes, servers and data, and what an upgrade does.
const FAULTS: [&str; 8] = [
    "kill_worker",
    "pause_worker",
    "drain_worker",
    "kill_nats",
    "kill_postgres",
    "delete_bucket",
    "delete_stream",
    "migrate",
];

/// Returns whether the release before knows a command.
fn is_known(verb: &str, payload: &Value) -> bool {
    static RECORD: LazyLock<Value> = LazyLock::new(record);
    // Its prices were never those of a list.
    let is_priced = verb != "cart.add_item" || !payload["unit_price"].is_null();
    RECORD["golden"].get(format!("command.{verb}.json")).is_some() && is_priced
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the program of the release before: .ci/previous"]
async fn s6_04_the_release_before_and_the_present_one_run_side_by_side() {
    let Some(program) = or_skip("the release before", previous::program()) else { return };
    let faults = FAULTS.map(str::to_owned);
    let mut plan = ChaosPlan::new(Duration::from_secs(120), 604, &faults, launch).unwrap();
    plan.previous = Some(PreviousRelease { program, knows: is_known });
    let report = play(&plan).await.unwrap();
    report.print();
    assert!(report.findings.is_empty(), "{:#?}", report.findings);
    // A history without answers proves nothing.
    assert!(report.definite() >= 600, "{} definite answers", report.definite());
    let handled = &report.run.previous;
    assert!(handled.values().sum::<u64>() >= 100, "by the release before: {handled:?}");
    for fault in FAULTS {
        assert!(report.faults[fault].count > 0, "{fault} was not struck");
    }
}

/// Not a test: makes `tests/upgrade/previous.json` when another release has become the one before.
#[tokio::test]
#[ignore = "writes tests/upgrade/previous.json"]
async fn write_down_the_release_before() {
    let program = previous::program().unwrap();
    // Roles belong to a whole server.
    let database = TestDatabase::with_own_postgres().await.unwrap();
    raw_sql("create database previous").execute(&database.sql).await.unwrap();
    let url = database.postgres.as_ref().unwrap().superuser_url("previous");
    previous::write(&program, &url).await.unwrap();
}
