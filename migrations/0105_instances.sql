-- The workers that run, each with the last sign of life that it gave. One that drains takes its row
-- away, so a row that nobody renews is a worker that has died, hangs, or does not reach Postgres:
-- `brigade status` and every other worker can tell.
create table brigade.instances (
    instance   text        primary key check (length(instance) <= 100),
    worker     text        not null check (length(worker) <= 100),
    holder     text        not null check (length(holder) <= 100), -- of its leases: new at each start
    version    text        not null check (length(version) <= 100),
    host       text        not null check (length(host) <= 300),
    process    bigint      not null,
    started_at timestamptz not null,
    seen_at    timestamptz not null,
    trouble    text        check (length(trouble) <= 1000) -- why it is not ready; null: it is
) with (fillfactor = 50);
