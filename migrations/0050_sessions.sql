-- All sessions of a user, each with hashes of its tokens, in the order of their last use:
-- [{hash, name, began_at, begun_by, used_at, refresh_expires_at, access_hash, access_expires_at,
--   refresh_hash, by, raced: [{access_hash, access_expires_at, refresh_hash, by}],
--   rotated: {hash, others, at}}]
-- The last one stands in the columns of one session as well: a release before knows no other, and
-- what it does with that one stands there alone.
alter table brigade.users add column sessions jsonb not null default '[]';
