//! I-4: at rest KV equals SQL, field by field, in every bucket.

use std::collections::HashMap;

use async_nats::jetstream::Context;
use brigade_contracts::key::{Bucket, CANARY};
use serde_json::Value;
use sqlx::PgPool;

use super::streams::messages;

/// The buckets that are compared.
const BUCKETS: [Bucket; 5] =
    [Bucket::Versions, Bucket::Views, Bucket::ActiveOrders, Bucket::CartLocks, Bucket::UserState];

/// All values of all buckets at one moment.
pub struct Snapshot(HashMap<String, Value>);

impl Snapshot {
    /// Reads every bucket whole.
    pub async fn read(js: &Context) -> Self {
        let mut values = HashMap::new();
        for bucket in BUCKETS {
            let prefix = bucket.subject("");
            // The keys of a bucket that is not there are found missing.
            for message in messages(js, &bucket.stream()).await.unwrap_or_default() {
                let key = message.subject.strip_prefix(&prefix).unwrap_or_default();
                // A marker of an expiry is no value, and empty.
                let (_era, value) = brigade::infra::unstamp(&message.payload);
                if let Ok(value) = serde_json::from_slice(&value) {
                    values.insert(format!("{}|{key}", bucket.as_str()), value);
                }
            }
        }
        Self(values)
    }

    fn get(&self, bucket: &str, key: &str) -> Option<&Value> {
        self.0.get(&format!("{bucket}|{key}"))
    }
}

/// Returns every difference, of all aggregates and locks, and every key that has no row.
///
/// # Errors
/// If Postgres cannot be read.
pub async fn differences(sql: &PgPool, js: &Context) -> sqlx::Result<Vec<String>> {
    let kv = Snapshot::read(js).await;
    let mut found = of_carts_and_orders(sql, &kv).await?;
    found.extend(of_payments_locks_tables_and_products(sql, &kv).await?);
    found.extend(of_users(sql, &kv).await?);
    found.extend(without_rows(sql, &kv).await?);
    Ok(found)
}

/// The differences between keys and their row.
struct KvComparison<'a> {
    kv: &'a Snapshot,
    found: Vec<String>,
}

impl<'a> KvComparison<'a> {
    fn of(kv: &'a Snapshot) -> Self {
        Self { kv, found: Vec::new() }
    }

    /// Returns the value of a key, which has to be there unless it may have expired.
    fn value(&mut self, bucket: &str, key: &str, may_be_gone: bool) -> Option<&'a Value> {
        let value = self.kv.get(bucket, key);
        if value.is_none() && !may_be_gone {
            self.found.push(format!("I-4: {bucket}: no key {key}"));
        }
        value
    }

    fn same(&mut self, what: impl Fn() -> String, in_kv: &Value, in_sql: &Value) {
        if in_kv != in_sql {
            self.found.push(format!("I-4: {} is {in_kv} in KV, {in_sql} in SQL", what()));
        }
    }
}

/// True where the rows of an order that has ended may have expired: they live for 10 minutes.
const ORDER_MAY_BE_GONE: &str = "coalesce(o.ended_at < now() - interval '9 minutes', false)";

/// Compares carts and orders.
///
/// # Errors
/// If Postgres does not answer.
pub async fn of_carts_and_orders(sql: &PgPool, kv: &Snapshot) -> sqlx::Result<Vec<String>> {
    let statement = format!(
        "select 'cart' as kind, to_jsonb(c) as row, false as may_be_gone from brigade.carts c
         union all select 'order', to_jsonb(o), {ORDER_MAY_BE_GONE} from brigade.orders o"
    );
    let rows: Vec<(String, Value, bool)> =
        sqlx::query_as(sqlx::AssertSqlSafe(statement)).fetch_all(sql).await?;
    let mut compare = KvComparison::of(kv);
    for (kind, row, may_be_gone) in &rows {
        let (tenant, id) = (text(row, "tenant"), text(row, "id"));
        let key = format!("{tenant}.{kind}.{id}");
        if let Some(versions) = compare.value("versions", &key, false) {
            compare.same(|| format!("version of {key}"), &versions["version"], &row["version"]);
            compare.same(|| format!("parts of {key}"), &versions["parts"], &row["parts"]);
        }
        for part in ["core", "payments"] {
            let key = format!("{key}.{part}");
            if let Some(projected) = compare.value("views", &key, false) {
                of_part(&mut compare, &key, part, projected, row);
            }
        }
        if kind == "order" {
            of_list(&mut compare, &format!("{tenant}.{id}"), row, *may_be_gone);
        }
    }
    Ok(compare.found)
}

fn of_part(compare: &mut KvComparison<'_>, key: &str, part: &str, projected: &Value, row: &Value) {
    compare.same(|| format!("version of {key}"), &projected["version"], &row["parts"][part]);
    for (field, value) in projected.as_object().into_iter().flatten() {
        let stored = match field.as_str() {
            // Of the part, or computed from several columns; unit tests hold these.
            "version" | "at" | "total" => continue,
            "members" if part == "core" => continue,
            // One instant in two notations.
            "created_at" | "paid_at" | "locked_until" if !value.is_null() => continue,
            "payments" => projected_payments(&row[field]),
            field => row[field].clone(),
        };
        compare.same(|| format!("{key}: {field}"), value, &stored);
    }
}

fn of_list(compare: &mut KvComparison<'_>, order: &str, row: &Value, may_be_gone: bool) {
    let core = compare.value("active_orders", &format!("{order}.core"), may_be_gone);
    if let Some(core) = core {
        let what = |field: &str| format!("{field} of {order} in active_orders");
        compare.same(|| what("version"), &core["version"], &row["parts"]["core"]);
        compare.same(|| what("status"), &core["status"], &row["status"]);
        // The row of a large order leaves out the last ones, and says how many.
        let mut items = row["items"].as_array().cloned().unwrap_or_default();
        let left_out = core["items_left_out"].as_u64().unwrap_or(0);
        items.truncate(items.len().saturating_sub(usize::try_from(left_out).unwrap_or(0)));
        compare.same(|| what("items"), &core["items"], &items.into());
    }
    let payment = compare.value("active_orders", &format!("{order}.payment"), may_be_gone);
    if let Some(payment) = payment {
        compare.same(
            || format!("paid of {order} in active_orders"),
            &payment["paid"],
            &row["paid"],
        );
    }
}

/// Returns the payments of a row of `carts` or `orders` as they are projected.
fn projected_payments(kept: &Value) -> Value {
    let mut projected = kept.clone();
    for payment in projected.as_array_mut().into_iter().flatten() {
        if let Some(fields) = payment.as_object_mut() {
            fields.retain(|name, _| name != "token" && name != "applied");
        }
    }
    projected
}

/// Compares payments, locks, tables and products, whose columns are named like the fields in KV.
///
/// # Errors
/// If Postgres does not answer.
pub async fn of_payments_locks_tables_and_products(
    sql: &PgPool,
    kv: &Snapshot,
) -> sqlx::Result<Vec<String>> {
    let rows: Vec<(String, String, Value, bool)> = sqlx::query_as(
        "select 'views', format('%s.payment.%s.core', tenant, id),
                to_jsonb(p) || jsonb_build_object(
                    'target', jsonb_build_object(target_kind, target_id),
                    'bound', transaction_id is not null), false
         from brigade.payments p
         union all
         select 'cart_locks', format('%s.%s', tenant, owner),
                to_jsonb(l) || jsonb_build_object('cart', cart_id),
                l.state = 'released' and l.updated_at < now() - interval '9 minutes'
         from brigade.cart_locks l
         -- A lock over no cart at all was put there by a test.
         where exists (select from brigade.carts c where (c.tenant, c.id) = (l.tenant, l.cart_id))
         union all
         select 'views', format('%s.table.%s.core', t.tenant, t.id),
                to_jsonb(t) || jsonb_build_object('open_turn', (
                    select jsonb_build_object('id', u.id, 'party_size', u.party_size,
                                              'opened_at', u.opened_at)
                    from brigade.turns u where (u.tenant, u.id) = (t.tenant, t.open_turn_id))), false
         from brigade.tables t
         union all
         select 'views', format('%s.product.%s.core', tenant, id), to_jsonb(p), false
         from brigade.products p",
    )
    .fetch_all(sql)
    .await?;
    let mut compare = KvComparison::of(kv);
    for (bucket, key, row, may_be_gone) in &rows {
        let Some(projected) = compare.value(bucket, key, *may_be_gone) else { continue };
        for (field, value) in projected.as_object().into_iter().flatten() {
            let what = || format!("{bucket}|{key}: {field}");
            if field == "open_turn" {
                for field in ["id", "party_size"] {
                    compare.same(what, &value[field], &row["open_turn"][field]);
                }
            // One instant in two notations.
            } else if !["at", "acquired_at", "expires_at"].contains(&field.as_str()) {
                compare.same(what, value, &row[field]);
            }
        }
        compare.same(|| format!("version of {key}"), &projected["version"], &row["version"]);
    }
    Ok(compare.found)
}

/// Compares users.
///
/// # Errors
/// If Postgres does not answer.
pub async fn of_users(sql: &PgPool, kv: &Snapshot) -> sqlx::Result<Vec<String>> {
    let rows: Vec<Value> = sqlx::query_scalar(
        "select to_jsonb(u) || jsonb_build_object('user', id, 'status', account_status)
         from brigade.users u",
    )
    .fetch_all(sql)
    .await?;
    let mut compare = KvComparison::of(kv);
    for row in &rows {
        let (tenant, id) = (text(row, "tenant"), text(row, "id"));
        let key = format!("{tenant}.user.{id}");
        if let Some(versions) = compare.value("versions", &key, false) {
            compare.same(|| format!("version of {key}"), &versions["version"], &row["version"]);
            compare.same(|| format!("parts of {key}"), &versions["parts"], &row["parts"]);
        }
        for part in ["auth", "subscription", "roles"] {
            let key = format!("{tenant}.{id}.{part}");
            let Some(projected) = compare.value("user_state", &key, false) else { continue };
            compare.same(
                || format!("version of {key}"),
                &projected["version"],
                &row["parts"][part],
            );
            let stored = if part == "subscription" { &row["subscription"] } else { row };
            for (field, value) in projected.as_object().into_iter().flatten() {
                let is_time = field.ends_with("_at");
                if is_time && value.is_null() == stored[field].is_null() {
                    // One instant in two notations.
                } else if !["version", "at"].contains(&field.as_str()) {
                    compare.same(|| format!("{key}: {field}"), value, &stored[field]);
                }
            }
        }
    }
    Ok(compare.found)
}

/// Returns the counters of aggregates that SQL does not know.
///
/// # Errors
/// If Postgres does not answer.
pub async fn without_rows(sql: &PgPool, kv: &Snapshot) -> sqlx::Result<Vec<String>> {
    let keys = kv.0.keys().filter_map(|key| key.strip_prefix("versions|"));
    let keys: Vec<_> = keys.filter(|key| *key != CANARY).map(str::to_owned).collect();
    sqlx::query_scalar(
        "select 'I-4: versions: SQL knows no ' || key from unnest($1::text[]) as there (key)
         where not exists (select from brigade.events e
             where e.tenant = split_part(key, '.', 1) and e.aggregate = split_part(key, '.', 2)
               and e.id = split_part(key, '.', 3))",
    )
    .bind(keys)
    .fetch_all(sql)
    .await
}

fn text<'a>(row: &'a Value, field: &str) -> &'a str {
    row[field].as_str().unwrap_or_default()
}
