//! The invariants of money and locks (I-7 to I-12), checked from outside in SQL.

use serde_json::Value;
use sha2::{Digest, Sha256};
use sqlx::PgConnection;

/// Returns the invariants that do not hold, each with the rows that break it.
///
/// # Errors
/// If Postgres does not answer.
pub async fn broken(connection: &mut PgConnection) -> sqlx::Result<Vec<String>> {
    let mut broken = super::rows_of(connection, NONE_OF).await?;
    broken.extend(paid_for_something_else(connection).await?);
    Ok(broken)
}

/// Returns the fingerprint of a cart's contents, as the contract describes it.
#[must_use]
pub fn fingerprint(currency: &str, items: &[Value]) -> String {
    let mut items: Vec<_> = items.iter().collect();
    items.sort_by_key(|item| item["item_id"].as_str());
    let line = |item: &&Value| {
        format!(
            r#"{{"item_id":{},"quantity":{},"sku":{},"unit_price":{}}}"#,
            item["item_id"], item["quantity"], item["sku"], item["unit_price"]
        )
    };
    let lines: Vec<_> = items.iter().map(line).collect();
    let contents = format!(r#"{{"currency":"{currency}","items":[{}]}}"#, lines.join(","));
    hex::encode(Sha256::digest(contents))
}

/// Each statement finds what breaks an invariant.
const NONE_OF: &[(&str, &str)] = &[
    (
        // What is done with a lock is done with the token that was given last; after the end only
        // another one can be taken. What `claim` takes over was given to the session.
        "I-7: a history of locks in which each is taken, used and ended by its own token",
        "select format('%s.%s #%s %s %s', tenant, owner, seq, action, token)
         from (select h.*, lag(action) over by_owner as before, lag(token) over by_owner as known,
                      max(token) over (by_owner rows between unbounded preceding and 1 preceding)
                          as highest
               from brigade.cart_lock_history h where action <> 'refused'
               window by_owner as (partition by tenant, owner order by seq)) h
         where case when action = 'acquired'
                    then before not in ('released', 'expired')
                         or (reason is distinct from 'claimed' and token <= highest)
                    else before is null or before in ('released', 'expired') or token <> known end",
    ),
    (
        // A lock over no cart at all was put there by a test.
        "I-7: a lock is held exactly if its history has no end",
        "select format('%s.%s %s, last %s', tenant, owner, state, action)
         from (select distinct on (tenant, owner) tenant, owner, action, token
               from brigade.cart_lock_history where action <> 'refused'
               order by tenant, owner, seq desc) h
         full join brigade.cart_locks l using (tenant, owner)
         where ((state = 'held') is distinct from (action not in ('released', 'expired'))
                or h.token is distinct from l.token)
           and (l.cart_id is null or exists (
               select from brigade.carts c where (c.tenant, c.id) = (l.tenant, l.cart_id)))",
    ),
    (
        "I-7: a cart shows that it is locked exactly if it is",
        "select format('%s.%s', c.tenant, c.id) from brigade.carts c
         left join brigade.cart_locks l
              on (l.tenant, l.owner, l.cart_id) = (c.tenant, c.owner, c.id) and l.state = 'held'
         where (c.locked_until is null) <> (l.owner is null)",
    ),
    (
        "I-8: no contents of a cart change while it is locked",
        "select format('%s.%s@%s %s', tenant, id, version, type)
         from (select e.*,
                      count(*) filter (where type = 'locked') over so_far
                      - count(*) filter (where type in ('unlocked', 'lock_expired')) over so_far
                          as locks
               from brigade.events e where aggregate = 'cart'
               window so_far as (partition by tenant, id order by version)) e
         where locks not in (0, 1)
            or (locks = 1 and (type like 'item\\_%' or type in
                ('member_joined', 'member_left', 'checked_out', 'abandoned')))",
    ),
    (
        // `claim` makes carts of one owner another's, so owners who claimed are left out.
        "I-8: nor those of the owner's other carts",
        "select format('%s.%s@%s %s', tenant, id, version, type)
         from (select e.*,
                      count(*) filter (where type = 'locked') over so_far
                      - count(*) filter (where type in ('unlocked', 'lock_expired')) over so_far
                          as locks
               from brigade.events e join brigade.carts c using (tenant, id)
               where aggregate = 'cart' and not exists (
                   select from brigade.events claimed join brigade.carts o using (tenant, id)
                   where claimed.type = 'claimed' and (o.tenant, o.owner) = (c.tenant, c.owner))
               window so_far as (partition by c.tenant, c.owner order by e.seq)) e
         where locks not in (0, 1) or (locks = 1 and type like 'item\\_%')",
    ),
    (
        "I-9, I-10: what was captured is what was applied and what is owed back, by currency",
        "select format('%s.%s captured %s %s, applied and owed %s', tenant, id, sum(captured),
                       currency, sum(accounted))
         from (select p.tenant, p.id, c.currency, c.amount as captured, 0 as accounted
               from brigade.payments p,
                    jsonb_to_recordset(p.captures) as c (amount bigint, currency text)
               union all
               select tenant, id, currency::text, 0, applied from brigade.payments
               union all
               select tenant, payment_id, currency::text, 0, amount from brigade.refund_tasks) x
         group by tenant, id, currency having sum(captured) <> sum(accounted)",
    ),
    (
        "I-9: a refund task is what an event told of, and the other way round",
        "select format('%s.%s: %s told, %s tasks', tenant, id, told, tasks)
         from (select tenant, id, sum((payload->'data'->>'amount')::bigint) as told
               from brigade.events where aggregate = 'payment' and type = 'refund_requested'
               group by tenant, id) e
         full join (select tenant, payment_id as id, sum(amount) as tasks
                    from brigade.refund_tasks group by tenant, payment_id) t using (tenant, id)
         where told is distinct from tasks",
    ),
    (
        "I-10: each entry of the ledger balances",
        "select format('%s #%s', tenant, seq) from brigade.money_ledger
         where captured <> applied + refunded + owed + settled",
    ),
    (
        // What goes back goes towards refund tasks first, and then takes from what was applied.
        "I-10: the ledger says what payments and refund tasks say, by tenant, method and currency",
        "select format('%s %s %s: captured %s, applied %s, refunded %s, owed %s, settled %s', tenant,
                       method, currency, sum(captured), sum(applied), sum(refunded), sum(owed),
                       sum(settled))
         from (select tenant, method, currency::text, captured, applied, refunded, owed, settled
               from brigade.money_ledger
               union all
               select p.tenant, p.method, c.currency, -c.amount, 0, 0, 0, 0
               from brigade.payments p,
                    jsonb_to_recordset(p.captures) as c (amount bigint, currency text)
               union all
               select tenant, method, currency::text, 0, refunded_amount - applied,
                      -refunded_amount, 0, 0
               from brigade.payments
               union all
               select t.tenant, p.method, t.currency::text, 0,
                      case when t.currency = p.currency then -t.refunded else 0 end,
                      t.settled - case when t.currency = p.currency then 0 else t.refunded end,
                      t.refunded - t.amount, -t.settled
               from brigade.refund_tasks t
               join brigade.payments p on (p.tenant, p.id) = (t.tenant, t.payment_id)) x
         group by tenant, method, currency
         having sum(captured) <> 0 or sum(applied) <> 0 or sum(refunded) <> 0 or sum(owed) <> 0
             or sum(settled) <> 0",
    ),
    (
        "I-10: what is paid of a cart is what its payments had applied, and at most its total",
        "select format('%s.%s', tenant, id)
         from (select c.*, (select coalesce(sum((p->>'applied')::bigint), 0)
                            from jsonb_array_elements(c.payments) p) as applied,
                      (select coalesce(sum((i->>'unit_price')::bigint * (i->>'quantity')::bigint), 0)
                       from jsonb_array_elements(c.items) i) as total
               from brigade.carts c) c
         where paid <> applied or paid > total or paid < 0 or refunded < 0",
    ),
    (
        "I-10: what is paid of an order is what its payments, and its cart's, had applied",
        "select format('%s.%s', o.tenant, o.id) from brigade.orders o
         left join brigade.payments p on p.tenant = o.tenant and (p.target_kind, p.target_id)
              in (('order', o.id), ('cart', o.cart_id))
         group by o.tenant, o.id, o.paid, o.total, o.refunded
         having o.paid <> coalesce(sum(p.applied), 0)
             or o.paid not between 0 and o.total or o.refunded < 0",
    ),
    (
        "I-10: an order sums to its total",
        "select format('%s.%s', tenant, id) from brigade.orders o
         where total <> (select sum((i->>'unit_price')::bigint * (i->>'quantity')::bigint)
                         from jsonb_array_elements(items) i)",
    ),
    (
        "I-10: no amount is negative, and no more is given back than came in",
        "select format('%s.%s', tenant, id) from brigade.payments p
         where amount <= 0 or applied < 0 or applied > amount or refunded_amount < 0
            or refunded_amount > (select coalesce(sum(c.amount), 0)
                   from jsonb_to_recordset(captures) as c (amount bigint, currency text)
                   where c.currency = p.currency)
         union all select format('%s.%s', tenant, id) from brigade.refund_tasks where amount <= 0
         union all select format('%s.%s', tenant, owner) from brigade.cart_locks where amount < 0",
    ),
    (
        "I-11: a payment is captured once, and then only given back",
        "select format('%s.%s@%s %s', tenant, id, version, type)
         from (select e.*, count(*) filter (
                   where type in ('captured', 'cash_confirmed', 'late_captured'))
                   over (partition by tenant, id order by version) as captured
               from brigade.events e where aggregate = 'payment') e
         where captured > 1 or (captured = 1 and type not in
               ('captured', 'cash_confirmed', 'late_captured', 'refund_requested', 'refunded',
                'refund_settled'))",
    ),
    (
        "I-11: no transaction is captured twice",
        "select format('%s.%s %s', p.tenant, p.id, c.transaction_id) from brigade.payments p,
                jsonb_to_recordset(captures) as c (transaction_id text)
         group by p.tenant, p.id, c.transaction_id having count(*) > 1",
    ),
    (
        "I-12: one order of a cart, which names it",
        "select format('%s.%s', c.tenant, c.id) from brigade.carts c
         left join brigade.orders o on (o.tenant, o.cart_id) = (c.tenant, c.id)
         group by c.tenant, c.id, c.status, c.order_id
         having count(o.id) <> (c.status = 'checked_out')::int or max(o.id) <> c.order_id",
    ),
    (
        "I-12: an order is paid once, when nothing is due",
        "select format('%s.%s', o.tenant, o.id) from brigade.orders o
         left join brigade.events e
              on (e.tenant, e.aggregate, e.id, e.type) = (o.tenant, 'order', o.id, 'paid')
         group by o.tenant, o.id, o.paid_at, o.paid, o.total
         having count(e.seq) <> (o.paid_at is not null)::int
             or (o.paid_at is not null and o.paid <> o.total)
             or (o.paid_at is null and o.paid = o.total and o.total > 0)",
    ),
];

/// I-9: a cart that was paid holds the items that it held when the payment began.
async fn paid_for_something_else(connection: &mut PgConnection) -> sqlx::Result<Vec<String>> {
    let rows: Vec<(String, String, Value, Option<String>)> = sqlx::query_as(
        "select c.tenant || '.' || c.id, c.currency::text, c.items, p.fingerprint
         from brigade.payments p
         join brigade.carts c on (c.tenant, c.id) = (p.tenant, p.target_id)
         where p.target_kind = 'cart' and p.applied > 0",
    )
    .fetch_all(connection)
    .await?;
    let mismatch = |(cart, currency, items, locked): (String, String, Value, Option<String>)| {
        let items = items.as_array().map_or(&[][..], Vec::as_slice);
        let present = fingerprint(&currency, items);
        (Some(present) != locked).then(|| format!("I-9: {cart} is not what was paid for"))
    };
    Ok(rows.into_iter().filter_map(mismatch).collect())
}
