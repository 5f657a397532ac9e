-- What tells a purge of a stream from keys that were all overwritten, or messages that went by age.
alter table brigade.stream_marks
    add column canary  bigint,      -- sequence of the bucket's canary
    add column last_at timestamptz; -- time of the last message
