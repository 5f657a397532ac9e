-- no-transaction
create index concurrently orders_active_of_owner on brigade.orders (tenant, owner)
    where active and owner is not null;
