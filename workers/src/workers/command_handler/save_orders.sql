insert into brigade.orders as o
    (tenant, id, version, updated_at, parts, parts_at, status, currency, cart_id, table_id, turn_id,
     items, total, paid, refunded, paid_at, payments, created_at, reason)
select *
from unnest($1::text[], $2::text[], $3::bigint[], $4::timestamptz[], $5::jsonb[], $6::jsonb[],
            $7::text[], $8::text[], $9::text[], $10::text[], $11::text[],
            $12::jsonb[], $13::bigint[], $14::bigint[], $15::bigint[], $16::timestamptz[],
            $17::jsonb[], $18::timestamptz[], $19::text[])
on conflict (tenant, id) do update set
    version = excluded.version, updated_at = excluded.updated_at,
    parts = excluded.parts, parts_at = excluded.parts_at,
    status = excluded.status, items = excluded.items, total = excluded.total,
    table_id = excluded.table_id, turn_id = excluded.turn_id,
    paid = excluded.paid, refunded = excluded.refunded, paid_at = excluded.paid_at,
    payments = excluded.payments, reason = excluded.reason
