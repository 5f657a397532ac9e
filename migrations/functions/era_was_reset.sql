-- Records that the buckets were emptied for this era.
create or replace function brigade.era_was_reset(present bigint)
returns void
language sql security definer set search_path = pg_catalog, pg_temp as $$
    update brigade.eras set reset_at = clock_timestamp() where era = present and reset_at is null
$$;
