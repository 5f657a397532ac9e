-- Returns the era of the database. Begins a new one where the server is another one than in the
-- newest, or where that is wanted (after a restore that shows as no other server). Fencing tokens
-- jump then: those that were drawn and lost are not drawn again.
create or replace function brigade.begin_era(anew boolean)
returns bigint
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    newest brigade.eras;
begin
    select * into newest from brigade.eras order by era desc limit 1;
    if newest.server = brigade.server_timeline() and not anew then
        return newest.era;
    end if;
    lock table brigade.eras in exclusive mode;
    -- Another worker may have been first.
    select * into newest from brigade.eras order by era desc limit 1;
    if newest.server = brigade.server_timeline() and not anew then
        return newest.era;
    end if;
    -- On a server that was just promoted no standby may be there yet.
    perform set_config('synchronous_commit', 'local', true);
    perform setval('brigade.lock_token', nextval('brigade.lock_token') + 1000000);
    insert into brigade.eras (era, server)
    values (greatest(newest.era + 1, floor(extract(epoch from clock_timestamp()) * 1000)::bigint),
            brigade.server_timeline())
    returning * into newest;
    return newest.era;
end $$;
