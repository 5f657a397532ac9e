-- Whether the buckets have to be emptied for this era, which is the present one: once, and after all
-- workers know of it, so that none writes what it has read in the one before.
create or replace function brigade.era_to_reset(present bigint)
returns boolean
language sql stable security definer set search_path = pg_catalog, pg_temp as $$
    select brigade.assert_era(present)
           and exists (select from brigade.eras where era = present and reset_at is null
                            and began_at < clock_timestamp() - interval '3 seconds')
$$;
