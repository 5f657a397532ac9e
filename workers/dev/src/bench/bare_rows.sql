-- The rows of $2 commands of the standard mix, in one statement: of ten commands nine change an
-- aggregate that is there (five a cart, four an order) and one makes one. $1 makes ids unique; $3
-- is an outcome of 600 bytes, $4 a payload of 500, $5 the items of a cart or order; $6 says where
-- among the 10,000 rows those stand that are changed, so that no two transactions meet.
with n as materialized (
    select i, $1 || i as k, ($6 + i) % 10000 as at from generate_series(1, $2) i
), inbox as (
    insert into bench_inbox (tenant, command_id, subject, payload_hash, outcome, decided_at)
    select 't' || at % 200, k, 'req.t1.order.' || k || '.place', sha256(k::bytea), $3::json, now()
    from n
), carts as (
    update bench_carts c set version = version + 1, updated_at = now(), items = $5::jsonb,
           parts = jsonb_build_object('core', version + 1, 'payments', 1)
    from n where n.i % 10 < 5 and (c.tenant, c.id) = ('t' || at % 200, 'c' || at)
), orders as (
    update bench_orders o set version = version + 1, updated_at = now(), items = $5::jsonb,
           parts = jsonb_build_object('core', version + 1, 'payments', 1)
    from n where n.i % 10 between 5 and 8 and (o.tenant, o.id) = ('t' || at % 200, 'c' || at)
), placed as (
    insert into bench_orders (tenant, id, version, updated_at, parts, parts_at, status, currency,
                              items, total, created_at)
    select 't' || at % 200, k, 1, now(), '{"core":1,"payments":1}', '{}', 'placed', 'EUR',
           $5::jsonb, 2800, now()
    from n where n.i % 10 = 9
), stored as (
    insert into bench_events (event_id, tenant, aggregate, id, version, type, payload, at,
                              command_id)
    select gen_random_uuid(), 't' || at % 200, 'order', k, 1, 'placed', $4::json, now(), k from n
    returning seq, event_id, tenant, id
), raised as (
    insert into bench_projection_backlog (tenant, aggregate, id, version, at)
    select tenant, 'order', id, 1, now() from stored
)
insert into bench_outbox (shard, seq, event_seq, event_id)
select seq % 16, seq, seq, event_id from stored
