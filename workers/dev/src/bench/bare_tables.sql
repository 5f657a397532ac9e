-- The tables of brigade without brigade: the same columns, types and indexes.
create table bench_inbox (like brigade.command_inbox including all);
create table bench_carts (like brigade.carts including all);
create table bench_orders (like brigade.orders including all);
create table bench_events (like brigade.events including all);
create table bench_outbox (like brigade.outbox including all);
create table bench_projection_backlog (like brigade.projection_backlog including all);

insert into bench_carts (tenant, id, version, updated_at, parts, parts_at, kind, owner, status,
                         currency, members, items)
select 't' || n % 200, 'c' || n, 1, now(), '{"core":1,"payments":1}',
       '{"core":"2026-01-02T03:04:05.678Z","payments":"2026-01-02T03:04:05.678Z"}', 'team', 'ada',
       'open', 'EUR', '[{"user":"ada","committed":null,"paid":0}]', '[]'
from generate_series(0, 9999) n;

insert into bench_orders (tenant, id, version, updated_at, parts, parts_at, status, currency, items,
                          total, created_at)
select 't' || n % 200, 'c' || n, 1, now(), '{"core":1,"payments":1}',
       '{"core":"2026-01-02T03:04:05.678Z","payments":"2026-01-02T03:04:05.678Z"}', 'placed', 'EUR',
       '[]', 2800, now()
from generate_series(0, 9999) n;
