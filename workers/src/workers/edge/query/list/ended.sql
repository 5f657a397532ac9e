-- For each position the orders of its tenant that ended and may have changed since.
select requested.place as "place!",
       found.ids as "ids!", found.cores as "cores!", found.payments as "payments!",
       found.xids as "xids!", found.ats as "ats!", found.created as "created!"
from unnest($1::text[], $2::bigint[], $3::timestamptz[])
     with ordinality as requested (tenant, xid, at, place)
cross join lateral (
    select coalesce(array_agg(id), '{}') as ids,
           coalesce(array_agg(core), '{}') as cores,
           coalesce(array_agg(payment), '{}') as payments,
           coalesce(array_agg(xid), '{}') as xids,
           coalesce(array_agg(updated_at), '{}') as ats,
           coalesce(array_agg(created_at), '{}') as created
    from (
        select o.id,
               coalesce((o.parts->>'core')::bigint, o.version) as core,
               coalesce((o.parts->>'payments')::bigint, o.version) as payment,
               o.xmin::text::bigint as xid,
               o.updated_at, o.created_at
        from brigade.orders o
        where o.tenant = requested.tenant
          -- A change is dated before it is committed: one that the position did not see yet may
          -- be dated before it, though never by so much (statements end after 5 s).
          and o.ended_at >= requested.at - interval '10 minutes'
          -- See `Position::precedes`.
          and (((o.xmin::text::bigint - requested.xid) & 4294967295) < 2147483648
               or o.ended_at >= requested.at)
        limit 1001
    ) ended
) found
where (select brigade.assert_era($4))
