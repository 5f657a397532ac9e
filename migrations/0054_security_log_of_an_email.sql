-- no-transaction
create index concurrently security_log_of_email on brigade.security_log
    (tenant, (detail ->> 'email')) where detail ? 'email';
