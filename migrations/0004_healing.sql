-- What cache-verifier saw of each stream when all was well, each second, kept for a day: the last
-- of a stream tells what it has lost since.
create table brigade.stream_marks (
    stream    text        not null,
    noted_at  timestamptz not null,
    created   text        not null, -- as the server says it, to the nanosecond
    server_id text        not null, -- of one server: another one means that it was started again
    first_seq bigint      not null,
    last_seq  bigint      not null,
    messages  bigint      not null,
    first_at  timestamptz not null, -- time of the first message
    primary key (stream, noted_at)
);

-- Events of a span of time: they are appended in the order of time, so a BRIN does.
create index on brigade.events using brin (at);
