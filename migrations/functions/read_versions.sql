-- For edge: which versions aggregates have, and which their parts.
create or replace function brigade.read_versions(
    era bigint, tenants text[], aggregates text[], ids text[])
returns table (tenant text, aggregate text, id text, version bigint, parts jsonb)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
begin
    perform brigade.assert_era(era);
    -- One branch an aggregate, each by its own primary key.
    return query
        with requested as (
            select * from unnest(tenants, aggregates, ids) as requested (tenant, aggregate, id)
        )
        select tenant, aggregate, id, cart.version, cart.parts
        from requested join brigade.carts cart using (tenant, id)
        where aggregate = 'cart'
        union all
        select tenant, aggregate, id, placed.version, placed.parts
        from requested join brigade.orders placed using (tenant, id)
        where aggregate = 'order'
        union all
        select tenant, aggregate, id, payment.version, jsonb_build_object('core', payment.version)
        from requested join brigade.payments payment using (tenant, id)
        where aggregate = 'payment'
        union all
        select tenant, aggregate, id, seating.version, jsonb_build_object('core', seating.version)
        from requested join brigade.tables seating using (tenant, id)
        where aggregate = 'table'
        union all
        select tenant, aggregate, id, product.version, jsonb_build_object('core', product.version)
        from requested join brigade.products product using (tenant, id)
        where aggregate = 'product';
end $$;
revoke all on function brigade.read_versions(bigint, text[], text[], text[]) from public;
