-- Orders that have ended, by the time of their last change: what left the active list.
-- A column of its own, null while an order is active, so that a step of an active order still
-- changes nothing that is indexed.
alter table brigade.orders add column ended_at timestamptz
    generated always as (case when status in ('completed', 'cancelled') then updated_at end) stored;
create index on brigade.orders (tenant, ended_at) where ended_at is not null;
