-- Carts, their locks, and what every command needs: the inbox of outcomes, the events,
-- the outbox, the notes of what is not shown yet, and leases.
create schema if not exists brigade;

create table brigade.carts (
    tenant       text        not null,
    id           text        not null,
    version      bigint      not null,
    updated_at   timestamptz not null,
    parts        jsonb       not null, -- part -> version of the last change that touched it
    parts_at     jsonb       not null, -- part -> time of that change
    kind         text        not null,
    owner        text        not null,
    session      text,
    status       text        not null,
    currency     char(3)     not null,
    members      jsonb       not null, -- [{user, committed, paid}], in order of joining
    items        jsonb       not null,
    paid         bigint      not null default 0,
    refunded     bigint      not null default 0,
    payments     jsonb       not null default '[]', -- as the part `payments` shows them
    order_id     text,
    locked_until timestamptz,
    primary key (tenant, id)
) with (fillfactor = 70); -- room for HOT updates: most changes touch no indexed column

create table brigade.cart_locks (
    tenant         text        not null,
    owner          text        not null,
    version        bigint      not null,
    updated_at     timestamptz not null,
    state          text        not null check (state in ('held', 'released')),
    cart_id        text        not null,
    token          bigint      not null,
    method         text        not null,
    acquired_at    timestamptz not null,
    expires_at     timestamptz not null,
    transaction_id text,
    fingerprint    text        not null,
    amount         bigint      not null,
    primary key (tenant, owner)
) with (fillfactor = 70);

-- Fencing tokens: only ever grow, also across owners.
create sequence brigade.lock_token;

create table brigade.cart_lock_history (
    seq     bigserial   primary key,
    tenant  text        not null,
    owner   text        not null,
    cart_id text        not null,
    token   bigint,
    action  text        not null,
    method  text,
    reason  text,
    actor   text,
    at      timestamptz not null
);
create index on brigade.cart_lock_history (tenant, owner, seq);

-- One row per final outcome. `json`, not `jsonb`: a repeated command gets the same bytes.
create table brigade.command_inbox (
    tenant       text        not null,
    command_id   text        not null,
    subject      text        not null,
    payload_hash bytea       not null,
    outcome      json        not null,
    decided_at   timestamptz not null,
    primary key (tenant, command_id)
);
create index on brigade.command_inbox using brin (decided_at);

-- Append only. seq is given while the aggregate is locked, so within one aggregate it
-- grows in the order of commits.
create table brigade.events (
    seq         bigserial   primary key,
    event_id    uuid        not null,
    tenant      text        not null,
    aggregate   text        not null,
    id          text        not null,
    version     bigint      not null,
    type        text        not null,
    payload     json        not null,
    at          timestamptz not null,
    command_id  text        not null,
    traceparent text,
    unique (tenant, aggregate, id, version)
);

-- Events that JetStream has not acknowledged yet. seq is the place in the queue: the
-- event's own number at first, a new one of the same sequence for a repetition.
create table brigade.outbox (
    shard     smallint not null,
    seq       bigint   not null,
    event_seq bigint   not null,
    event_id  uuid     not null,
    again     integer  not null default 0,
    primary key (shard, seq)
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 10000);

-- Aggregates whose newest version may not stand in KV yet.
create table brigade.unshown (
    tenant    text        not null,
    aggregate text        not null,
    id        text        not null,
    version   bigint      not null,
    at        timestamptz not null,
    primary key (tenant, aggregate, id)
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 10000);

-- Who does what alone: shards of the relay, duties. A lease only saves work; nothing is
-- wrong when two hold it for a moment.
create table brigade.leases (
    name   text        primary key,
    holder text        not null,
    until  timestamptz not null
) with (fillfactor = 50);
