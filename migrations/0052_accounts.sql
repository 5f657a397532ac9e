-- `status` is what a release before knows: always active. The status of a user stands here.
alter table brigade.users add column account_status text not null default 'active';
-- The token by which a new password may be chosen: {hash, expires_at}.
alter table brigade.users add column reset jsonb;

-- Tokens for new passwords that were asked for are counted by email and by source.
alter table brigade.login_failures drop constraint login_failures_kind_check;
alter table brigade.login_failures add constraint login_failures_kind_check
    check (kind in ('user', 'email', 'source', 'pair', 'reset', 'reset_source')) not valid;
