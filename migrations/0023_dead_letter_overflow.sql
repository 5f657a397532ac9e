-- Dead letters beyond the bounds of `dead_letters`: counted, and not kept. A tenant has a bounded
-- number of rows here, whatever the reasons say.
create table brigade.dead_letter_overflow (
    tenant       text        not null, -- as in the subject of the letter; '' where it names none
    worker       text        not null,
    reason       text        not null, -- up to its first colon; `other` beyond so many of a tenant
    letters      bigint      not null,
    first_at     timestamptz not null default clock_timestamp(),
    last_at      timestamptz not null default clock_timestamp(),
    last_subject text        not null, -- the original one
    last_message text        not null, -- as in `dead_letters`: the same one again is not counted
    -- When it was last found that the tenant has no room: that costs a count of all its letters.
    checked_at   timestamptz not null default clock_timestamp(),
    primary key (tenant, worker, reason)
);
