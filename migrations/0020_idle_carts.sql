-- no-transaction
create index concurrently carts_idle on brigade.carts (changed_hour, tenant, id)
    where status = 'open' and paid = 0;
