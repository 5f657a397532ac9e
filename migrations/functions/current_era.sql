-- Returns the era of the database, for workers: begins a new one where the server is another one.
create or replace function brigade.current_era()
returns bigint
language sql security definer set search_path = pg_catalog, pg_temp as $$
    select brigade.begin_era(false)
$$;
