use std::{fs, path::Path};

use sqlx::{
    PgPool, SqlSafeStr,
    migrate::{Migration, MigrationType},
};

use super::*;
use crate::testing::{TEMPLATE, TestDatabase, until};

const COLUMN: &str = "alter table brigade.carts add column remark text";
const INDEX: &str = "create index concurrently carts_remark_idx on brigade.carts (remark)";

fn with_two_more() -> Migrator {
    let more = |version, sql: &'static str, no_tx| {
        Migration::new(version, "test".into(), MigrationType::Simple, sql.into_sql_str(), no_tx)
    };
    let more = [more(9001, COLUMN, false), more(9002, INDEX, true)];
    Migrator::with_migrations(MIGRATIONS.iter().cloned().chain(more).collect())
}

/// A row of two carts is locked by hand, which keeps the column out; what is left of an index
/// that could not be built stands in the way of the index.
#[tokio::test]
async fn a_migration_that_waits_for_a_lock_keeps_nobody_out() -> Result<()> {
    let TestDatabase { url, .. } = TestDatabase::start().await?;
    let sql = PgPool::connect(&url).await?;
    sqlx::raw_sql(
        "insert into brigade.carts (tenant, id, version, updated_at, parts, parts_at, kind, owner,
                                    status, currency, items, members)
         select 't1', 'c' || n, 1, now(), '{}', '{}', 'menu', 'ada', 'open', 'EUR', '[]', '[]'
         from generate_series(1, 2) n",
    )
    .execute(&sql)
    .await?;
    let unfinished = "create unique index concurrently carts_remark_idx on brigade.carts (owner)";
    assert!(sqlx::raw_sql(unfinished).execute(&sql).await.is_err());
    let mut by_hand = sql.begin().await?;
    let lock = "select from brigade.carts where id = 'c1' for update";
    sqlx::raw_sql(lock).execute(&mut *by_hand).await?;

    let migrated = async {
        let mut connection = connect(&url).await?;
        let all = with_two_more();
        patiently(&mut connection, async |connection| migrate(connection, &all).await).await
    };
    let others = async {
        until("a migration that waits", || async {
            let waits = "select exists (select from pg_stat_activity
                         where datname = current_database() and query like 'alter table%'
                         and wait_event_type = 'Lock')";
            sqlx::query_scalar::<_, bool>(waits).fetch_one(&sql).await.ok()?.then_some(())
        })
        .await;
        for _ in 0..20 {
            let change = "update brigade.carts set version = version + 1 where id = 'c2'";
            sqlx::raw_sql(change).execute(&sql).await?;
        }
        Ok(by_hand.commit().await?)
    };
    tokio::try_join!(migrated, others)?;
    let (column, index): (bool, bool) = sqlx::query_as(
        "select exists (select from pg_attribute
                        where attrelid = 'brigade.carts'::regclass and attname = 'remark'),
                (select indisvalid from pg_index
                 where indexrelid = 'brigade.carts_remark_idx'::regclass)",
    )
    .fetch_one(&sql)
    .await?;
    assert!(column && index);
    Ok(())
}

/// Returns the texts of the functions that a database has.
async fn functions(url: &str) -> Result<Vec<String>> {
    let functions = "select pg_get_functiondef(oid) from pg_proc
                     where pronamespace = 'brigade'::regnamespace order by 1";
    Ok(sqlx::query_scalar(functions).fetch_all(&mut connect(url).await?).await?)
}

/// The second database comes from the time when functions stood in migrations: it has several
/// versions of `take_batch`.
#[tokio::test]
async fn functions_are_as_their_files_say_whatever_the_database_was_before() -> Result<()> {
    let database = TestDatabase::with_own_postgres().await?;
    let fresh = database.url.clone();
    let former = database.postgres.as_ref().expect("its own").superuser_url("former");
    let expected = functions(&fresh).await?;
    assert_eq!(expected.len(), FUNCTIONS.len());

    create_database(&fresh, "former").await?;
    let old = MIGRATIONS.iter().filter(|migration| migration.version <= 21).cloned();
    migrate(&mut connect(&former).await?, &Migrator::with_migrations(old.collect())).await?;
    let before = functions(&former).await?;
    assert!(before.iter().filter(|text| text.contains("take_batch")).count() > 1, "{before:?}");
    run(&former, "", |_| None).await?;
    assert_eq!(functions(&former).await?, expected);

    // Of another release: a body, a parameter, and a function that is no more.
    let mut connection = connect(&former).await?;
    replace_functions(
        &mut connection,
        &[
            "create function brigade.load_batch(request jsonb, more integer) returns integer
             language sql as 'select 1'",
            "create or replace function brigade.turn_at(tenant text, table_id text)
             returns setof brigade.turns language sql stable as 'select * from brigade.turns'",
            "create function brigade.other() returns integer language sql as 'select 1'",
        ],
    )
    .await?;
    assert_eq!(functions(&former).await?.len(), 3);
    // Two at once, as two operators would.
    tokio::try_join!(run(&former, "", |_| None), run(&former, "", |_| None))?;
    assert_eq!(functions(&former).await?, expected);
    Ok(())
}

/// Two installations on one server: the second has roles of its own, and leaves those of the first
/// as they are.
#[tokio::test]
async fn roles_with_a_prefix_are_an_installations_own() -> Result<()> {
    let database = TestDatabase::with_own_postgres().await?;
    let postgres = database.postgres.as_ref().expect("its own");
    let second = postgres.superuser_url("second");
    create_database(&database.url, "second").await?;
    run(&second, "shop_", |_| Some("of the second".to_owned())).await?;
    let may = async |user: &str, password: &str, database: &str| {
        let url = postgres.url(user, password, database);
        let Ok(mut connection) = PgConnection::connect(&url).await else { return false };
        sqlx::raw_sql("select brigade.current_era()").execute(&mut connection).await.is_ok()
    };
    for worker in ["edge", "command-handler"] {
        let (old, new) = (format!("{worker}-secret"), "of the second");
        let prefixed = format!("shop_{worker}");
        assert!(may(worker, &old, TEMPLATE).await && may(&prefixed, new, "second").await);
        assert!(!may(worker, &old, "second").await && !may(&prefixed, new, TEMPLATE).await);
        assert!(!may(worker, new, TEMPLATE).await && !may(&prefixed, &old, "second").await);
    }
    Ok(())
}

/// Processes of the release before go on meanwhile.
#[tokio::test]
async fn what_the_release_before_needs_is_left_to_it_and_then_taken_away() -> Result<()> {
    let database = TestDatabase::with_own_postgres().await?;
    let edge = database.worker_url(WorkerName::Edge);
    let reads_tables = async || {
        let mut connection = connect(&edge).await?;
        let read = sqlx::raw_sql("select from brigade.carts").execute(&mut connection).await;
        let called = sqlx::raw_sql("select from brigade.read_tenants(brigade.current_era(), '{}')");
        called.execute(&mut connection).await?;
        anyhow::Ok(read.is_ok())
    };
    assert!(!reads_tables().await?);
    run_beside_former(&database.url, "", |_| None).await?;
    assert!(reads_tables().await?);
    run(&database.url, "", |_| None).await?;
    assert!(!reads_tables().await?);
    Ok(())
}

#[tokio::test]
async fn a_migration_is_not_run_through_a_pooler() -> Result<()> {
    let mut database = TestDatabase::start().await?;
    if database.put_pgbouncer_between().await? {
        let pooled = database.worker_url(WorkerName::Edge);
        let refused = run(&pooled, "", |_| None).await.unwrap_err();
        assert!(format!("{refused:#}").contains("pooler"), "{refused:#}");
    }
    Ok(())
}

/// Statements stand in the server's log, on an error or if it logs all of them.
#[tokio::test]
async fn no_password_reaches_the_log_of_postgres() -> Result<()> {
    let database = TestDatabase::with_own_postgres().await?;
    let mut owner = connect(&database.url).await?;
    for setting in ["set log_statement = 'all'", "reset log_min_messages"] {
        let setting = format!("alter system {setting}");
        sqlx::raw_sql(AssertSqlSafe(setting)).execute(&mut owner).await?;
    }
    sqlx::raw_sql("select pg_reload_conf()").execute(&mut owner).await?;
    let log = database.postgres.as_ref().expect("its own").log();
    let password = "horse'battery";
    until("the passwords in the log's statements", || async {
        run(&database.url, "", |_| Some(password.to_owned())).await.ok()?;
        fs::read_to_string(&log).ok()?.contains("SCRAM-SHA-256$4096:").then_some(())
    })
    .await;
    assert!(!fs::read_to_string(&log)?.contains("battery"));
    let url = database.postgres.as_ref().expect("its own").url("edge", password, TEMPLATE);
    connect(&url).await?;
    Ok(())
}

#[test]
fn no_file_of_a_function_is_forgotten() -> Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../migrations/functions");
    let files = fs::read_dir(folder)?.map(|file| Ok(fs::read_to_string(file?.path())?));
    let mut files = files.collect::<Result<Vec<_>>>()?;
    files.sort();
    let mut known = FUNCTIONS;
    known.sort_unstable();
    assert_eq!(files, known);
    Ok(())
}
