-- For edge: the states of these tenants.
create or replace function brigade.read_tenants(era bigint, tenants text[])
returns table (tenant text, state text)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
begin
    perform brigade.assert_era(era);
    return query
        select t.tenant, t.state from brigade.tenants t where t.tenant = any (tenants);
end $$;
revoke all on function brigade.read_tenants(bigint, text[]) from public;
