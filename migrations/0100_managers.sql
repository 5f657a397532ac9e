-- no-transaction
create index concurrently users_managers on brigade.users (tenant, id)
    where roles ? 'manager' and account_status = 'active';
