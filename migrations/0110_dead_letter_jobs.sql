-- What operators leave to the fleet: to replay or drop many dead letters. A command-handler does it,
-- so it goes on when the operator's terminal is gone.
create table brigade.dead_letter_jobs (
    id           bigint      generated always as identity primary key,
    action       text        not null check (action in ('replay', 'drop')),
    reason       text,                    -- of a drop, or of a replay that is forced
    actor        text        not null,
    selection    text        not null,    -- the filter, as the operator wrote it
    letters      bigint      not null,
    done         bigint      not null default 0,
    done_before  bigint      not null default 0, -- by somebody else, who was faster
    refused      bigint      not null default 0,
    created_at   timestamptz not null default clock_timestamp(),
    worked_at    timestamptz,             -- when letters were last acted on
    waits        text,                    -- why it does not go on at the moment
    ended_at     timestamptz,
    cancelled_by text
);
-- What is to be done, and what is deleted by age.
create index dead_letter_jobs_unfinished on brigade.dead_letter_jobs (id) where ended_at is null;
create index dead_letter_jobs_ended_at on brigade.dead_letter_jobs (ended_at);

-- The letters of a job that are still to be acted on, in the order in which that is done, and those
-- that were refused. What is done stands in `dead_letter_actions`.
create table brigade.dead_letter_job_items (
    job         bigint      not null,
    position    bigint      not null,
    dlq_created timestamptz not null,
    dlq_seq     bigint      not null,
    aggregate   text        not null, -- whose letters are sent in their order
    refused     text,
    -- It should have been sent before the later ones of its aggregate, and was not.
    is_gap      boolean     not null default false,
    primary key (job, position)
);
create index dead_letter_job_items_waiting on brigade.dead_letter_job_items (job, position)
    where refused is null;
create index dead_letter_job_items_gaps on brigade.dead_letter_job_items (job, aggregate, position)
    where is_gap;

alter table brigade.dead_letter_actions
    add column job bigint,             -- the job that it is of
    add column edited_subject text,    -- of a command that was sent again as the operator edited it
    add column edited_headers json,
    add column edited_payload bytea;
