-- For edge: of each request the time of this statement and active orders of its tenant behind a
-- place, newest first, so many at most. Ids are compared by their bytes, as the index has them,
-- whatever the database compares text by.
create or replace function brigade.read_active_orders(
    era bigint, tenants text[], before timestamptz[], after text[], most bigint[])
returns table (place bigint, start bigint, xid bigint, at bigint,
               ids text[], cores bigint[], payments bigint[], xids bigint[], ats timestamptz[],
               created timestamptz[])
language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
begin
    perform brigade.assert_era(era);
    return query
        select requested.place,
               -- Another number in each era: a position of another one is of no use.
               (extract(epoch from pg_postmaster_start_time()) * 1000000)::bigint + era,
               -- The snapshot is the one that this statement reads the orders with.
               pg_snapshot_xmin(pg_current_snapshot())::text::bigint,
               floor(extract(epoch from clock_timestamp()) * 1000)::bigint,
               found.ids, found.cores, found.payments, found.xids, found.ats,
               found.created
        from unnest(tenants, before, after, most) with ordinality
             as requested (tenant, before, after, most, place)
        cross join lateral (
            select coalesce(array_agg(id order by place), '{}') as ids,
                   coalesce(array_agg(core order by place), '{}') as cores,
                   coalesce(array_agg(payment order by place), '{}') as payments,
                   coalesce(array_agg(xid order by place), '{}') as xids,
                   coalesce(array_agg(updated_at order by place), '{}') as ats,
                   coalesce(array_agg(created_at order by place), '{}') as created
            from (
                select newest.*,
                       row_number() over (order by created_at desc, id collate "C" desc) as place
                from (
                    select o.id, o.created_at,
                           coalesce((o.parts->>'core')::bigint, o.version) as core,
                           coalesce((o.parts->>'payments')::bigint, o.version) as payment,
                           o.xmin::text::bigint as xid,
                           o.updated_at
                    from brigade.orders o
                    where o.tenant = requested.tenant and o.active
                      and (o.created_at, o.id collate "C")
                          < (requested.before, requested.after collate "C")
                    order by o.created_at desc, o.id collate "C" desc
                    limit least(greatest(coalesce(requested.most, 0), 0), 2001)
                ) newest
            ) placed
        ) found;
end $$;
revoke all on function brigade.read_active_orders(
    bigint, text[], timestamptz[], text[], bigint[]) from public;
