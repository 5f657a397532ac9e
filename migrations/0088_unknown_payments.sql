-- no-transaction
create index concurrently unknown_payments_of_tenant on brigade.payments (tenant, id collate "C")
    where status = 'unknown';
