-- Fails unless the database is in this era, and on a server in recovery.
create or replace function brigade.assert_era(expected bigint)
returns boolean
language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
declare
    newest brigade.eras;
begin
    select * into newest from brigade.eras order by era desc limit 1;
    if newest.era is distinct from expected
       or newest.server is distinct from brigade.server_timeline() then
        raise exception 'the database is in another era than %', expected
            using errcode = 'object_not_in_prerequisite_state';
    end if;
    return true;
end $$;
