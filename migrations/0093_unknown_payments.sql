-- no-transaction
create index concurrently payments_unknown on brigade.payments (updated_at)
    where status = 'unknown';
