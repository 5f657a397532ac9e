-- Failed logins are counted by account and source together as well (`pair`: `<account> <source>`),
-- and no longer by the id of the user, as which a release before still counts.
alter table brigade.login_failures drop constraint login_failures_kind_check;
alter table brigade.login_failures add constraint login_failures_kind_check
    check (kind in ('user', 'email', 'source', 'pair')) not valid;

-- The sources that a user has logged in from, the last one last: an address, of IPv6 its network of
-- 64 bits. Failures of others do not keep the user out there.
alter table brigade.users add column known_sources jsonb not null default '[]';
