-- Pages of the payments whose result is unknown.
-- $1 tenants, $2 whose, $3 and $4 bounds in time, $5 ids of places, $6 how many at most, $7 era.
select requested.place as "place!", found.at as "at!", found.id as "id!", found.row as "row!"
from unnest($1::text[], $2::text[], $3::timestamptz[], $4::timestamptz[], $5::text[], $6::bigint[])
     with ordinality as requested (tenant, whose, since, before, after, most, place)
cross join lateral (
    select 'epoch'::timestamptz as at, p.id, json_build_object(
               'payment', p.id, 'version', p.version, 'at', p.updated_at,
               'target', json_build_object(p.target_kind, p.target_id), 'user', p.user_id,
               'method', p.method, 'amount', p.amount, 'currency', p.currency)::text as row
    from brigade.payments p
    where p.tenant = requested.tenant and p.status = 'unknown'
      and p.id collate "C" > requested.after collate "C"
    order by p.id collate "C" limit requested.most
) found
where (select brigade.assert_era($7))
order by requested.place, found.id collate "C"
