-- Orders, and the index behind the active list.
create table brigade.orders (
    tenant     text        not null,
    id         text        not null,
    version    bigint      not null,
    updated_at timestamptz not null,
    parts      jsonb       not null,
    parts_at   jsonb       not null,
    status     text        not null,
    currency   char(3)     not null,
    cart_id    text,
    table_id   text,
    turn_id    text,
    items      jsonb       not null,
    total      bigint      not null,
    paid       bigint      not null default 0,
    refunded   bigint      not null default 0,
    paid_at    timestamptz,
    payments   jsonb       not null default '[]',
    created_at timestamptz not null,
    reason     text,
    -- A column of its own, so that a step of an active order changes nothing that is indexed.
    active     boolean     not null
               generated always as (status not in ('completed', 'cancelled')) stored,
    primary key (tenant, id)
) with (fillfactor = 70);
create index on brigade.orders (tenant, created_at desc, id desc) where active;
