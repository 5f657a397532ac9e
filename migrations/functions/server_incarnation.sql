-- Names the server as long as it has lost nothing: another timeline, another start, or a recovery
-- from a crash (which resets its statistics, even where the postmaster lives on) has another name.
-- Fails on a server in recovery.
create or replace function brigade.server_incarnation()
returns text
language sql stable as $$
    select concat_ws('/', left(pg_walfile_name(pg_current_wal_lsn()), 8),
                     extract(epoch from pg_postmaster_start_time()),
                     extract(epoch from pg_stat_get_bgwriter_stat_reset_time()))
$$;
