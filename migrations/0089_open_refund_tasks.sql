-- no-transaction
create index concurrently open_refund_tasks_of_tenant on brigade.refund_tasks
    (tenant, id collate "C") where status = 'open';
