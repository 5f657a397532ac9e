-- What JetStream lost, and how far bringing it back has come: whoever takes over goes on there. A
-- row is a heal; its steps are done in order (workers/src/workers/cache_verifier/heal/step.rs).
create table brigade.heals (
    id          bigint      generated always as identity primary key,
    reason      text        not null, -- what was lost, or `rebuild`
    steps       jsonb       not null,
    position    jsonb       not null, -- the step under way, and where it is
    walked      bigint      not null default 0, -- rows of SQL that were read
    aggregates  bigint      not null default 0, -- entries put into the heal backlog
    events      bigint      not null default 0, -- rows put into the outbox
    planned_at  timestamptz not null default clock_timestamp(),
    began_at    timestamptz,
    finished_at timestamptz
);
create index heals_unfinished on brigade.heals (id) where finished_at is null;

-- Aggregates whose keys are all written again, whatever is remembered of them. Apart from the
-- projection backlog, in which the commands of the day are: neither waits for the other, and an
-- ordinary change takes no entry away.
create table brigade.heal_backlog (
    tenant    text        not null,
    aggregate text        not null,
    id        text        not null,
    at        timestamptz not null, -- a later one stands for a later loss
    primary key (tenant, aggregate, id)
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 10000);

-- How far the audit of KV has come in its round, and when it last went through everything.
create table brigade.audit_rounds (
    audit            text        primary key, -- `kv`
    position         jsonb       not null,
    began_at         timestamptz not null, -- this round
    last_began_at    timestamptz,          -- the last whole one
    last_finished_at timestamptz
);
