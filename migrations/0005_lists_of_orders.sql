-- What the active list is read by: its order, which compares ids by their bytes whatever the
-- database compares text by, and the orders that left it.
create index orders_active on brigade.orders (tenant, created_at desc, id collate "C" desc)
    where active;
drop index brigade.orders_tenant_created_at_id_idx;

-- The time of the last change of an order that has ended. A column of its own, null while an
-- order is active, so that a step of an active order still changes nothing that is indexed.
alter table brigade.orders add column ended_at timestamptz
    generated always as (case when status in ('completed', 'cancelled') then updated_at end) stored;
create index orders_ended on brigade.orders (tenant, ended_at) where ended_at is not null;
