-- no-transaction
create index concurrently payments_unknown_of_tenant on brigade.payments (tenant, id collate "C")
    where status = 'unknown';
