-- Names the history of the server: its system identifier and its timeline. A promoted standby and a
-- database that was restored have another one. Fails on a server in recovery.
create or replace function brigade.server_timeline()
returns text
language sql stable as $$
    select concat_ws('/', system_identifier, left(pg_walfile_name(pg_current_wal_lsn()), 8))
    from pg_control_system()
$$;
