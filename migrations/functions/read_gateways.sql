-- For edge: of each gateway that there is, what its messages are signed with, and the time in seconds
-- of the Unix time.
create or replace function brigade.read_gateways(era bigint, tenants text[], gateways text[])
returns table (place bigint, format text, secrets text[], now bigint)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
begin
    perform brigade.assert_era(era);
    return query
        select requested.place, min(s.format), array_agg(s.secret),
               extract(epoch from clock_timestamp())::bigint
        from unnest(tenants, gateways) with ordinality as requested (tenant, gateway, place)
        join brigade.gateway_secrets s
          on (s.tenant, s.gateway) = (requested.tenant, requested.gateway)
        group by requested.place;
end $$;
revoke all on function brigade.read_gateways(bigint, text[], text[]) from public;
