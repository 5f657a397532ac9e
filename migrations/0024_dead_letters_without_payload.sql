-- no-transaction
create index concurrently dead_letters_without_payload
    on brigade.dead_letters (split_part(subject, '.', 4)) where payload = '';
