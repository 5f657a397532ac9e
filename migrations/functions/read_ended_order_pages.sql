-- For edge: pages of the orders that have ended within bounds of time.
create or replace function brigade.read_ended_order_pages(
    era bigint, tenants text[], whose text[], since timestamptz[], before timestamptz[],
    after text[], most bigint[])
returns table (place bigint, at timestamptz, id text, "row" text)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
begin
    perform brigade.assert_era(era);
    return query
        select requested.place, found.at, found.id, found.row
        from unnest(tenants, whose, since, before, after, most) with ordinality
             as requested (tenant, whose, since, before, after, most, place)
        cross join lateral (
            select o.ended_at as at, o.id, json_build_object(
                       'order', o.id, 'version', o.version, 'status', o.status,
                       'currency', o.currency, 'cart_id', o.cart_id, 'table_id', o.table_id,
                       'turn_id', o.turn_id, 'items', jsonb_array_length(o.items),
                       'total', o.total, 'paid', o.paid, 'refunded', o.refunded,
                       'created_at', o.created_at, 'paid_at', o.paid_at,
                       'ended_at', o.ended_at, 'reason', o.reason)::text as row
            from brigade.orders o
            where o.tenant = requested.tenant and o.ended_at >= requested.since
              and o.ended_at <= requested.before
              and (o.ended_at, o.id collate "C") < (requested.before, requested.after collate "C")
            order by o.ended_at desc, o.id collate "C" desc
            limit least(greatest(coalesce(requested.most, 0), 0), 501)
        ) found
        order by requested.place, found.at desc, found.id collate "C" desc;
end $$;
revoke all on function brigade.read_ended_order_pages(
    bigint, text[], text[], timestamptz[], timestamptz[], text[], bigint[])
    from public;
