-- For edge: pages of the payments whose result is unknown.
create or replace function brigade.read_unknown_payment_pages(
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
            select 'epoch'::timestamptz as at, p.id, json_build_object(
                       'payment', p.id, 'version', p.version, 'at', p.updated_at,
                       'unknown_since', coalesce((
                           select e.at from brigade.events e
                           where (e.tenant, e.aggregate, e.id, e.type)
                               = (p.tenant, 'payment', p.id, 'unknown')
                           order by e.version desc limit 1), p.updated_at),
                       'target', json_build_object(p.target_kind, p.target_id), 'user', p.user_id,
                       'method', p.method, 'amount', p.amount, 'currency', p.currency)::text as row
            from brigade.payments p
            where p.tenant = requested.tenant and p.status = 'unknown'
              and p.id collate "C" > requested.after collate "C"
            order by p.id collate "C"
            limit least(greatest(coalesce(requested.most, 0), 0), 501)
        ) found
        order by requested.place, found.id collate "C";
end $$;
revoke all on function brigade.read_unknown_payment_pages(
    bigint, text[], text[], timestamptz[], timestamptz[], text[], bigint[])
    from public;
