-- The price list of each tenant. `id` is the sku. What was withdrawn keeps its row: it counts its
-- versions on when it is put back.
create table brigade.products (
    tenant     text        not null,
    id         text        not null,
    version    bigint      not null,
    updated_at timestamptz not null,
    listed     boolean     not null,
    name       text        not null,
    unit_price bigint      not null,
    currency   text        not null,
    category   text,
    available  boolean     not null,
    primary key (tenant, id)
) with (fillfactor = 70);
-- The list is told page by page.
create index products_listed on brigade.products (tenant, id collate "C") where listed;
