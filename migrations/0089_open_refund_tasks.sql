-- no-transaction
create index concurrently refund_tasks_open on brigade.refund_tasks (tenant, id collate "C")
    where status = 'open';
