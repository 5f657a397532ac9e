-- What $1 commands have left behind, ended long enough ago that nothing of it is in KV any more:
-- four of ten on carts that were abandoned after 16 changes, six of ten on orders that were
-- completed in six steps; ids begin with `h`.
with moments as materialized (
    select n, now() - interval '20 days' + n * interval '12 days' / $1 as at
    from generate_series(0, $1 - 1) n
), inbox as (
    insert into brigade.command_inbox
        (tenant, command_id, subject, payload_hash, outcome, decided_at)
    select 't' || n % 200, 'h' || n, 'req.t' || n % 200 || '.order.h' || n || '.place',
           sha256(n::text::bytea),
           json_build_object('command_id', 'h' || n, 'status', 200, 'data', repeat('x', 500)), at
    from moments
), changed as (
    insert into brigade.events
        (event_id, tenant, aggregate, id, version, type, payload, at, command_id)
    select gen_random_uuid(), 't' || nr % 200, kind, 'h' || nr, version, 'completed',
           json_build_object('data', repeat('x', 260), 'after', json_build_object('ended', true)),
           at, 'h' || n
    from moments
    cross join lateral (
        select case when n < $1 * 4 / 10 then 'cart' else 'order' end as kind,
               case when n < $1 * 4 / 10 then n / 16 else (n - $1 * 4 / 10) / 6 end as nr,
               1 + case when n < $1 * 4 / 10 then n % 16 else (n - $1 * 4 / 10) % 6 end as version
    ) as change
    order by n
), carts as (
    insert into brigade.carts
        (tenant, id, version, updated_at, parts, parts_at, kind, owner, status, currency, members,
         items)
    select 't' || nr % 200, 'h' || nr, 16, now() - interval '15 days', '{"core":16,"payments":16}',
           jsonb_build_object('core', now() - interval '15 days',
                              'payments', now() - interval '15 days'),
           'team', 'ada', 'abandoned', 'EUR', '[{"user":"ada","committed":null,"paid":0}]',
           jsonb_build_array(jsonb_build_object('name', repeat('x', 200)))
    from generate_series(0, $1 * 4 / 10 / 16 - 1) nr
)
insert into brigade.orders
    (tenant, id, version, updated_at, parts, parts_at, status, currency, items, total, created_at)
select 't' || nr % 200, 'h' || nr, 6, now() - interval '15 days', '{"core":6,"payments":6}',
       jsonb_build_object('core', now() - interval '15 days',
                          'payments', now() - interval '15 days'),
       'completed', 'EUR', jsonb_build_array(jsonb_build_object('name', repeat('x', 200))), 2800,
       now() - interval '15 days'
from generate_series(0, $1 * 6 / 10 / 6 - 1) nr
