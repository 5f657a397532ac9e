-- no-transaction
create index concurrently refund_tasks_open_of_tenant on brigade.refund_tasks (tenant, id collate "C")
    where status = 'open';
