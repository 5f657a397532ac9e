-- For edge: of each tenant the time of this statement and its active orders, newest first; one more
-- than an answer has says that there are older ones. Ids are compared by their bytes, as the index
-- has them, whatever the database compares text by.
create or replace function brigade.read_active_orders(era bigint, tenants text[])
returns table (tenant text, start bigint, xid bigint, at bigint,
               ids text[], cores bigint[], payments bigint[], xids bigint[], ats bigint[])
language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
begin
    perform brigade.assert_era(era);
    return query
        select requested.tenant,
               -- Another number in each era: a position of another one is of no use.
               (extract(epoch from pg_postmaster_start_time()) * 1000000)::bigint + era,
               -- The snapshot is the one that this statement reads the orders with.
               pg_snapshot_xmin(pg_current_snapshot())::text::bigint,
               floor(extract(epoch from clock_timestamp()) * 1000)::bigint,
               found.ids, found.cores, found.payments, found.xids, found.ats
        from unnest(tenants) as requested (tenant)
        cross join lateral (
            select coalesce(array_agg(id order by place), '{}') as ids,
                   coalesce(array_agg(core order by place), '{}') as cores,
                   coalesce(array_agg(payment order by place), '{}') as payments,
                   coalesce(array_agg(xid order by place), '{}') as xids,
                   coalesce(array_agg(at order by place), '{}') as ats
            from (
                select newest.*,
                       row_number() over (order by created_at desc, id collate "C" desc) as place
                from (
                    select o.id, o.created_at,
                           coalesce((o.parts->>'core')::bigint, o.version) as core,
                           coalesce((o.parts->>'payments')::bigint, o.version) as payment,
                           o.xmin::text::bigint as xid,
                           floor(extract(epoch from o.updated_at) * 1000)::bigint as at
                    from brigade.orders o
                    where o.tenant = requested.tenant and o.active
                    order by o.created_at desc, o.id collate "C" desc
                    limit 1001
                ) newest
            ) placed
        ) found;
end $$;
revoke all on function brigade.read_active_orders(bigint, text[]) from public;
