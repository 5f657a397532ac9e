-- Users, what happened to them once per event, and the failed logins that slow guessing down.
create table brigade.users (
    tenant             text        not null,
    id                 text        not null,
    version            bigint      not null,
    updated_at         timestamptz not null,
    parts              jsonb       not null, -- part -> version of the last change that touched it
    parts_at           jsonb       not null, -- part -> time of that change
    email              text        not null, -- as it was given
    email_folded       text        not null, -- by Unicode's case folding, which SQL does not know
    profile_id         text        not null,
    password_hash      text        not null, -- argon2id in PHC form
    status             text        not null,
    roles              jsonb       not null, -- [Token]
    -- The session, all null without one. Of tokens only hashes: lower-case hex SHA-256.
    session_hash       text,                 -- of what all refresh tokens of it have in common
    access_hash        text,
    access_expires_at  timestamptz,
    refresh_hash       text,
    refresh_expires_at timestamptz,
    rotated_hash       text,                 -- of the refresh token before this one
    rotated_by         text,                 -- the command that it was used in
    last_login_at      timestamptz,
    subscription       jsonb,                -- {subscription_id, plan, status, until}
    primary key (tenant, id)
) with (fillfactor = 70); -- room for HOT updates: logins and refreshes touch no indexed column

-- Whoever takes the same email at the same time fails, is tried again, and then sees it taken.
create unique index users_email on brigade.users (tenant, email_folded);

-- Side effects of events, at most once each: an event that is delivered again changes nothing.
create table brigade.user_activity (
    event_id uuid        primary key,
    tenant   text        not null,
    id       text        not null,
    version  bigint      not null,
    type     text        not null, -- the bare event name
    at       timestamptz not null  -- of the event
);
create index on brigade.user_activity (tenant, id, at);

-- One row for each failed login and what it is counted by; they count for 15 minutes, and may be
-- deleted after that.
create table brigade.login_failures (
    tenant text        not null,
    kind   text        not null check (kind in ('user', 'email', 'source')),
    key    text        not null,
    at     timestamptz not null
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 10000);
create index on brigade.login_failures (tenant, kind, key, at);
create index on brigade.login_failures using brin (at);
