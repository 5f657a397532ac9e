-- Whether the buckets have to be emptied for this era, which is the present one.
create or replace function brigade.era_to_reset(present bigint)
returns boolean
language sql stable security definer set search_path = pg_catalog as $$
    select brigade.assert_era(present)
           and exists (select from brigade.eras where era = present and reset_at is null)
$$;
