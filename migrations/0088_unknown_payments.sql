-- no-transaction
create index concurrently payments_unknown on brigade.payments (tenant, id collate "C")
    where status = 'unknown';
