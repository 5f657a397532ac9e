-- no-transaction
create index concurrently dead_letter_actions_of_a_job
    on brigade.dead_letter_actions (job, done_at) where job is not null;
