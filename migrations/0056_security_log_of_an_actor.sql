-- no-transaction
create index concurrently security_log_of_actor on brigade.security_log (tenant, actor)
    where actor is not null;
