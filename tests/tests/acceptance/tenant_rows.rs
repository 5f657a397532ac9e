//! The wall in SQL: edge, which faces the internet and serves all tenants, has no right on any
//! table, and gets rows of the tenants that it names and of no others.

use std::collections::BTreeSet;

use brigade::{infra::postgres::pool, operations::migrate, testing::TestDatabase};
use brigade_contracts::{WorkerName, page::MAX_PAGE_LIMIT};
use serde_json::Value;
use sqlx::{AssertSqlSafe, PgPool};

/// A tenant, with a word and a number that stand in its rows alone.
struct Tenant {
    name: &'static str,
    word: &'static str,
    number: i64,
}

const OWN: Tenant = Tenant { name: "t1", word: "shown", number: 717_171 };
const OTHER: Tenant = Tenant { name: "t2", word: "hidden", number: 424_242 };

/// One of each, with the same ids in both tenants: a condition that leaves the tenant out finds both.
const ROWS: &str = "
    create temporary table v as
        values ('t1', 'shown', 717171, now()), ('t2', 'hidden', 424242, now());
    alter table v rename column1 to tenant;
    alter table v rename column2 to word;
    alter table v rename column3 to number;
    alter table v rename column4 to at;
    insert into brigade.carts (tenant, id, version, updated_at, parts, parts_at, kind, owner,
                               status, currency, members, items)
    select tenant, 'c1', number, at, '{}', '{}', 'team', word, 'open', 'EUR',
           '[{\"user\": \"ada\"}]', '[]'
    from v;
    insert into brigade.orders (tenant, id, version, updated_at, parts, parts_at, status, currency,
                                cart_id, items, total, created_at, reason)
    select tenant, id, number, at, '{}', '{}', status, 'EUR', 'c1', '[]', 0, at, word
    from v cross join (values ('o1', 'placed'), ('o2', 'completed')) o (id, status);
    insert into brigade.order_people (tenant, person, created_at, order_id)
    select tenant, 'ada', at, 'o1' from v;
    insert into brigade.payments (tenant, id, version, updated_at, target_kind, target_id, user_id,
                                  method, status, currency, amount)
    select tenant, id, number, at, 'order', 'o1', word, 'card', status, 'EUR', 1
    from v cross join (values ('p1', 'captured'), ('p2', 'unknown')) p (id, status);
    insert into brigade.refund_tasks (tenant, id, payment_id, amount, currency, reason, status)
    select tenant, 'p1.1', 'p1', 1, 'EUR', word, 'open' from v;
    insert into brigade.tables (tenant, id, version, updated_at, label, seats, status)
    select tenant, 'tb1', number, at, word, 4, 'occupied' from v;
    insert into brigade.turns (tenant, id, version, updated_at, table_id, opened_at)
    select tenant, 'u-' || word, number, at, 'tb1', at from v;
    insert into brigade.products (tenant, id, version, updated_at, listed, name, unit_price,
                                  currency, available)
    select tenant, 's1', number, at, true, word, 1, 'EUR', true from v;
    insert into brigade.cart_locks (tenant, owner, version, updated_at, state, cart_id, token,
                                    method, acquired_at, expires_at, fingerprint, amount)
    select tenant, 'ada', number, at, 'held', 'c1', number, word, at, at, '', 1 from v;
    insert into brigade.cart_lock_history (tenant, owner, cart_id, action, reason, at)
    select tenant, 'ada', 'c1', 'acquired', word, at from v;
    insert into brigade.command_inbox (tenant, command_id, subject, payload_hash, outcome,
                                       decided_at, actor)
    select tenant, 'k1', 'x', '', json_build_object('word', word), at, 'ada' from v;
    insert into brigade.users (tenant, id, version, updated_at, parts, parts_at, email, email_folded,
                               profile_id, password_hash, status, roles)
    select tenant, 'ada', number, at, '{}', '{}', word, word, 'x', 'x', 'active', '[]' from v;
    insert into brigade.money_ledger (tenant, at, method, currency, captured, applied, refunded,
                                      owed, settled)
    select tenant, at, 'card', 'EUR', number, number, 0, 0, 0 from v;
    insert into brigade.gateway_secrets (tenant, gateway, fingerprint, format, secret)
    select tenant, 'g1', word, 'stripe', word from v";

/// The first page of a list: whose it is, from when, until when, behind which id, how many rows.
const PAGE: &str = "'{ada}', '{-infinity}', '{infinity}', '{\"\"}', '{9}'";

/// The same of the refund tasks of a payment.
const TASKS: &str = "'{p1}', '{-infinity}', '{infinity}', '{\"\"}', '{9}'";

/// What edge calls, each with the number of its keys and what stands behind their tenants.
const CALLS: &[(&str, usize, &str)] = &[
    ("read_versions", 5, "'{cart,order,payment,table,product}', '{c1,o1,p1,tb1,s1}'"),
    ("read_aggregates", 5, "'{cart,order,payment,table,product}', '{c1,o1,p1,tb1,s1}'"),
    ("read_owners", 3, "'{cart,order,payment}', '{c1,o1,p1}'"),
    ("read_outcomes", 1, "'{k1}', '{null}', '{null}'"),
    ("read_outcomes", 1, "'{ada.k1}', '{ada}', '{k1}'"),
    ("read_active_orders", 1, "'{infinity}', '{\"\"}', '{9}'"),
    ("read_ended_orders", 1, "'{0}', array[now() - interval '1 h']"),
    ("read_product_digests", 1, "array[''], '{9}'"),
    ("read_product_pages", 1, "array[''], '{9}'"),
    ("read_table_pages", 1, PAGE),
    ("read_cart_pages", 1, PAGE),
    ("read_order_pages", 1, PAGE),
    ("read_ended_order_pages", 1, PAGE),
    ("read_refund_task_pages", 1, TASKS),
    ("read_unknown_payment_pages", 1, PAGE),
    ("read_live_locks", 1, "'{ada}'"),
    ("read_lock_history", 1, "'{ada}', '{9}', '{999}'"),
    ("read_tenants", 1, ""),
    ("read_users", 1, "'{ada}', '{null}'"),
    ("read_day_closes", 1, "array[now() - interval '1 h'], '{null}'"),
    ("read_gateways", 1, "'{g1}'"),
];

/// Returns whether something tells of a tenant.
fn tells(value: &Value, of: &Tenant) -> bool {
    match value {
        Value::String(text) => {
            // JSON in a text has numbers as well.
            let number = of.number.to_string();
            text == of.name || text.contains(of.word) || text.contains(&number)
        }
        Value::Number(number) => number.as_i64() == Some(of.number),
        Value::Array(values) => values.iter().any(|value| tells(value, of)),
        Value::Object(fields) => fields.values().any(|value| tells(value, of)),
        Value::Null | Value::Bool(_) => false,
    }
}

/// Returns the rows that a function gives for keys of these tenants.
async fn rows(edge: &PgPool, (name, _, more): (&str, usize, &str), tenants: &[&str]) -> Value {
    let era = if name == "read_users" { "" } else { "brigade.current_era(), " };
    let more = if more.is_empty() { String::new() } else { format!(", {more}") };
    let call = format!(
        "select coalesce(jsonb_agg(to_jsonb(r)), '[]') from brigade.{name}({era}$1{more}) r"
    );
    let call = sqlx::query_scalar(AssertSqlSafe(call)).bind(tenants);
    call.fetch_one(edge).await.unwrap_or_else(|error| panic!("{name}: {error}"))
}

#[tokio::test]
async fn s5_09_edge_gets_rows_of_the_tenants_that_it_names_and_of_no_others() {
    let database = TestDatabase::start().await.unwrap();
    database.run(ROWS).await.unwrap();
    let edge = pool(&database.worker_url(WorkerName::Edge), WorkerName::Edge, 1).unwrap();
    for call in CALLS {
        let of = async |tenants: &[&str]| rows(&edge, *call, tenants).await;
        let (own, other) = (of(&vec![OWN.name; call.1]).await, of(&vec![OTHER.name; call.1]).await);
        assert!(!tells(&own, &OTHER), "{}: {own}", call.0);
        assert!(!tells(&other, &OWN), "{}: {other}", call.0);
        // Each sees its own; a digest names nobody, but is another one.
        let is_seen = tells(&own, &OWN) && tells(&other, &OTHER);
        assert!(is_seen || call.0 == "read_product_digests", "{}: {own} {other}", call.0);
        assert_ne!(own, other, "{}", call.0);
        for nobody in [&[][..], &["t3"][..], &["%"][..]] {
            let none = of(nobody).await;
            assert!(!tells(&none, &OWN) && !tells(&none, &OTHER), "{}: {none}", call.0);
        }
    }

    // There is no function that is not tried above. Each takes the tenants by this name.
    let functions: BTreeSet<String> = sqlx::query_scalar(
        "select proname::text from pg_proc
         where pronamespace = 'brigade'::regnamespace and has_function_privilege(oid, 'execute')
           and 'tenants' = any (proargnames)",
    )
    .fetch_all(&edge)
    .await
    .unwrap()
    .into_iter()
    .collect();
    let tried: BTreeSet<String> = CALLS.iter().map(|call| call.0.to_owned()).collect();
    assert_eq!(functions, tried);
    let others: Vec<String> = sqlx::query_scalar(
        "select proname::text from pg_proc
         where pronamespace = 'brigade'::regnamespace and has_function_privilege(oid, 'execute')
           and not 'tenants' = any (coalesce(proargnames, '{}')) order by 1",
    )
    .fetch_all(&edge)
    .await
    .unwrap();
    assert_eq!(others, ["assert_era", "beat", "current_era"]);
}

#[tokio::test]
async fn s7_08_no_function_reads_a_list_without_end() {
    let database = TestDatabase::start().await.unwrap();
    database.run(ROWS).await.unwrap();
    let more = "insert into brigade.tables (tenant, id, version, updated_at, label, seats, status)
                select 't1', 'n' || n, 1, now(), 'x', 4, 'available' from generate_series(1, 600) n";
    database.run(more).await.unwrap();
    let edge = pool(&database.worker_url(WorkerName::Edge), WorkerName::Edge, 1).unwrap();
    let mut lists = 0;
    for (name, keys, with) in CALLS.iter().filter(|call| call.2.contains("'{9}'")) {
        lists += 1;
        for none in ["'{null}'", "'{0}'", "'{-1}'"] {
            let with = with.replace("'{9}'", none);
            let call = (*name, *keys, with.as_str());
            let found = rows(&edge, call, &vec![OWN.name; *keys]).await;
            assert!(!tells(&found, &OWN), "{name} {none}: {found}");
        }
    }
    assert_eq!(lists, 10);
    let all = PAGE.replace("'{9}'", "'{9223372036854775807}'");
    let found = rows(&edge, ("read_table_pages", 1, &all), &[OWN.name]).await;
    // One more than a page has tells that there is a next one.
    assert_eq!(found.as_array().map(Vec::len), Some(MAX_PAGE_LIMIT as usize + 1));
}

#[tokio::test]
async fn s5_09_a_statement_of_edge_that_reads_a_table_itself_is_refused() {
    let database = TestDatabase::start().await.unwrap();
    database.run(ROWS).await.unwrap();
    // What a whole database grants is not copied with it.
    migrate::run(&database.url, "", |_| None).await.unwrap();
    let edge = pool(&database.worker_url(WorkerName::Edge), WorkerName::Edge, 1).unwrap();
    let tables: Vec<String> = sqlx::query_scalar(
        "select oid::regclass::text from pg_class
         where relnamespace = 'brigade'::regnamespace and relkind in ('r', 'p', 'v', 'm', 'S')",
    )
    .fetch_all(&database.sql)
    .await
    .unwrap();
    assert!(tables.len() > 20, "{tables:?}");
    let fill = sqlx::raw_sql("create temporary table filling (x int)").execute(&edge).await;
    let code =
        fill.unwrap_err().into_database_error().and_then(|error| error.code().map(String::from));
    assert_eq!(code.as_deref(), Some("42501"), "a temporary table takes room on the disk");
    for table in tables {
        for columns in ["*", "count(*)", "1"] {
            let select = format!("select {columns} from {table}");
            let refused = sqlx::raw_sql(AssertSqlSafe(select)).execute(&edge).await.unwrap_err();
            let code = refused.as_database_error().and_then(|error| error.code());
            assert_eq!(code.as_deref(), Some("42501"), "{columns} of {table}");
        }
    }
}
