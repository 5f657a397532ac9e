-- What somebody who looks for misuse wants to know: failed logins, changed roles, refunds. Rows are
-- only added, in the transaction of the decision, and deleted after 90 days.
create table brigade.security_log (
    seq        bigint      generated always as identity primary key,
    at         timestamptz not null,
    tenant     text        not null,
    kind       text        not null,
    actor      text,                 -- who, if anybody is named
    via        text        not null, -- `http`, `nats` or `fleet`: whether the actor is confirmed
    source     text,                 -- the sender's address, if it is known
    subject    text        not null, -- whom or what it is about, such as `user.ada`
    command_id text,                 -- as in command_inbox; null where no command was sent
    detail     jsonb       not null, -- no secret; the email of a failed login
    -- A command that is decided anew each time leaves one row of a kind.
    unique (tenant, command_id, kind, subject)
);

-- One tenant's rows, newest first, beside a flood of another's.
create index security_log_of_tenant on brigade.security_log (tenant, seq);
