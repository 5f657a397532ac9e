-- A dead letter leaves its stream when it was replayed or dropped. What was done stands here for 30
-- days more, with the whole letter.
alter table brigade.dead_letter_actions
    add column worker text,
    add column headers json,        -- [[name, value], …]
    add column payload bytea,
    add column left_at timestamptz; -- since when it is gone from where it stood

-- What was begun and has to be finished.
create index dead_letter_actions_standing on brigade.dead_letter_actions (claimed_at)
    where left_at is null;
-- What is deleted by age.
create index dead_letter_actions_left_at on brigade.dead_letter_actions (left_at);

-- Dead letters that their stream did not take. Each worker may add one, operators take them away.
-- In `dead_letter_actions` they have the time 0 as that of the stream.
create table brigade.dead_letters (
    number    bigint      generated always as identity primary key,
    message   text        not null unique, -- which message it is a copy of: one copy is enough
    subject   text        not null,        -- as in the stream: dlq.<worker>.<original subject>
    headers   json        not null,        -- [[name, value], …]
    payload   bytea       not null,
    stored_at timestamptz not null default clock_timestamp()
);
