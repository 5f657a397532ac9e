insert into brigade.carts as cart
    (tenant, id, version, updated_at, parts, parts_at, kind, owner, session, status, currency,
     members, items, paid, refunded, payments, order_id, locked_until, refusals, changed_hour)
select *, floor(extract(epoch from updated_at) / 3600)
from unnest($1::text[], $2::text[], $3::bigint[], $4::timestamptz[], $5::jsonb[], $6::jsonb[],
            $7::text[], $8::text[], $9::text[], $10::text[], $11::text[],
            $12::jsonb[], $13::jsonb[], $14::bigint[], $15::bigint[], $16::jsonb[], $17::text[],
            $18::timestamptz[], $19::integer[]) as new (tenant, id, version, updated_at)
on conflict (tenant, id) do update set
    version = excluded.version, updated_at = excluded.updated_at,
    parts = excluded.parts, parts_at = excluded.parts_at,
    owner = excluded.owner, status = excluded.status,
    members = excluded.members, items = excluded.items,
    paid = excluded.paid, refunded = excluded.refunded, payments = excluded.payments,
    order_id = excluded.order_id, locked_until = excluded.locked_until,
    refusals = excluded.refusals, changed_hour = excluded.changed_hour
