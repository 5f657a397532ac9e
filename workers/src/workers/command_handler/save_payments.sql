insert into brigade.payments as p
    (tenant, id, version, updated_at, target_kind, target_id, user_id, method, status, currency,
     amount, refunded_amount, applied, transaction_id, token, fingerprint, captures, order_id,
     table_id)
select *
from unnest($1::text[], $2::text[], $3::bigint[], $4::timestamptz[], $5::text[], $6::text[],
            $7::text[], $8::text[], $9::text[], $10::text[], $11::bigint[], $12::bigint[],
            $13::bigint[], $14::text[], $15::bigint[], $16::text[], $17::jsonb[], $18::text[],
            $19::text[])
on conflict (tenant, id) do update set
    version = excluded.version, updated_at = excluded.updated_at,
    status = excluded.status, currency = excluded.currency, amount = excluded.amount,
    refunded_amount = excluded.refunded_amount, applied = excluded.applied,
    transaction_id = excluded.transaction_id, token = excluded.token,
    fingerprint = excluded.fingerprint, captures = excluded.captures,
    order_id = excluded.order_id, table_id = excluded.table_id
