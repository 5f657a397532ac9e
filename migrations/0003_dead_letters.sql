-- What operators did with dead letters: each letter is replayed or dropped once.
create table brigade.dead_letter_actions (
    dlq_created timestamptz not null, -- of the stream DLQ: a new one counts from 1 again
    dlq_seq     bigint      not null,
    action      text        not null check (action in ('replay', 'drop')),
    subject     text        not null, -- the original one
    reason      text,
    actor       text        not null,
    claimed_at  timestamptz not null default clock_timestamp(),
    done_at     timestamptz,
    primary key (dlq_created, dlq_seq)
);
