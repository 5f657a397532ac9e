-- For edge: of each position the orders of its tenant that ended and may have changed since.
create or replace function brigade.read_ended_orders(
    era bigint, tenants text[], since_xids bigint[], since timestamptz[])
returns table (place bigint, ids text[], cores bigint[], payments bigint[], xids bigint[],
               ats bigint[])
language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
begin
    perform brigade.assert_era(era);
    return query
        select requested.place, found.ids, found.cores, found.payments, found.xids, found.ats
        from unnest(tenants, since_xids, since) with ordinality
             as requested (tenant, xid, at, place)
        cross join lateral (
            select coalesce(array_agg(id), '{}') as ids,
                   coalesce(array_agg(core), '{}') as cores,
                   coalesce(array_agg(payment), '{}') as payments,
                   coalesce(array_agg(xid), '{}') as xids,
                   coalesce(array_agg(at), '{}') as ats
            from (
                select o.id,
                       coalesce((o.parts->>'core')::bigint, o.version) as core,
                       coalesce((o.parts->>'payments')::bigint, o.version) as payment,
                       o.xmin::text::bigint as xid,
                       floor(extract(epoch from o.updated_at) * 1000)::bigint as at
                from brigade.orders o
                where o.tenant = requested.tenant
                  -- A change is dated before it is committed: one that the position did not see yet
                  -- may be dated before it, though never by so much (statements end after 5 s).
                  and o.ended_at >= requested.at - interval '10 minutes'
                  -- See `Position::precedes`.
                  and (((o.xmin::text::bigint - requested.xid) & 4294967295) < 2147483648
                       or o.ended_at >= requested.at)
                limit 1001
            ) ended
        ) found;
end $$;
revoke all on function brigade.read_ended_orders(bigint, text[], bigint[], timestamptz[])
    from public;
