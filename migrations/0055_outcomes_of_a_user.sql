-- no-transaction
create index concurrently command_inbox_of_user on brigade.command_inbox
    (tenant, split_part(subject, '.', 4)) where split_part(subject, '.', 3) = 'user';
