-- For each request the time of this statement and active orders of its tenant behind a place, newest
-- first: $1 tenants, $2 and $3 the places, $4 how many at most, $5 era. Ids are compared by their
-- bytes, as the index has them, whatever the database compares text by.
select requested.place as "place!",
       -- Another number in each era: a position of another one is of no use.
       (extract(epoch from pg_postmaster_start_time()) * 1000000)::bigint + $5 as "start!",
       -- The snapshot is the one that this statement reads the orders with.
       pg_snapshot_xmin(pg_current_snapshot())::text::bigint as "xid!",
       floor(extract(epoch from clock_timestamp()) * 1000)::bigint as "at!",
       found.ids as "ids!", found.cores as "cores!", found.payments as "payments!",
       found.xids as "xids!", found.ats as "ats!", found.created as "created!"
from unnest($1::text[], $2::timestamptz[], $3::text[], $4::bigint[]) with ordinality
     as requested (tenant, before, after, most, place)
cross join lateral (
    select coalesce(array_agg(id order by place), '{}') as ids,
           coalesce(array_agg(core order by place), '{}') as cores,
           coalesce(array_agg(payment order by place), '{}') as payments,
           coalesce(array_agg(xid order by place), '{}') as xids,
           coalesce(array_agg(updated_at order by place), '{}') as ats,
           coalesce(array_agg(created_at order by place), '{}') as created
    from (
        select newest.*, row_number() over (order by created_at desc, id collate "C" desc) as place
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
            limit requested.most
        ) newest
    ) placed
) found
where (select brigade.assert_era($5))
