-- no-transaction
create index concurrently refund_tasks_open on brigade.refund_tasks (requested_at)
    where status = 'open';
