-- For edge: whole aggregates, as JSON; of a table also its open or latest turn, of a payment its
-- refund tasks. Users are read by read_users.
create or replace function brigade.read_aggregates(
    era bigint, tenants text[], aggregates text[], ids text[])
returns table (kind text, body text)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
begin
    perform brigade.assert_era(era);
    if 'cart' = any (aggregates) then
        return query
            select 'cart', row_to_json(c)::text
            from unnest(tenants, aggregates, ids) as r (tenant, aggregate, id)
            join brigade.carts c on (c.tenant, c.id) = (r.tenant, r.id)
            where r.aggregate = 'cart';
    end if;
    if 'order' = any (aggregates) then
        return query
            select 'order', row_to_json(o)::text
            from unnest(tenants, aggregates, ids) as r (tenant, aggregate, id)
            join brigade.orders o on (o.tenant, o.id) = (r.tenant, r.id)
            where r.aggregate = 'order';
    end if;
    if 'payment' = any (aggregates) then
        return query
            select 'payment', json_build_object('payment', row_to_json(p), 'tasks', (
                select coalesce(json_agg(row_to_json(t) order by length(t.id), t.id), '[]')
                from brigade.refund_tasks t
                where (t.tenant, t.payment_id) = (p.tenant, p.id)))::text
            from unnest(tenants, aggregates, ids) as r (tenant, aggregate, id)
            join brigade.payments p on (p.tenant, p.id) = (r.tenant, r.id)
            where r.aggregate = 'payment';
    end if;
    if 'table' = any (aggregates) then
        return query
            select 'table', json_build_object(
                'table', row_to_json(t),
                'turn', case when u.id is not null then row_to_json(u) end)::text
            from unnest(tenants, aggregates, ids) as r (tenant, aggregate, id)
            join brigade.tables t on (t.tenant, t.id) = (r.tenant, r.id)
            left join lateral brigade.turn_at(t.tenant, t.id) u on true
            where r.aggregate = 'table';
    end if;
    if 'product' = any (aggregates) then
        return query
            select 'product', row_to_json(p)::text
            from unnest(tenants, aggregates, ids) as r (tenant, aggregate, id)
            join brigade.products p on (p.tenant, p.id) = (r.tenant, r.id)
            where r.aggregate = 'product';
    end if;
end $$;
revoke all on function brigade.read_aggregates(bigint, text[], text[], text[]) from public;
