-- no-transaction
create index concurrently security_log_of_subject on brigade.security_log (tenant, subject);
