-- Pages of the refund tasks that are open.
-- $1 tenants, $2 whose, $3 and $4 bounds in time, $5 ids of places, $6 how many at most, $7 era.
select requested.place as "place!", found.at as "at!", found.id as "id!", found.row as "row!"
from unnest($1::text[], $2::text[], $3::timestamptz[], $4::timestamptz[], $5::text[], $6::bigint[])
     with ordinality as requested (tenant, whose, since, before, after, most, place)
cross join lateral (
    select 'epoch'::timestamptz as at, t.id, json_build_object(
               'task', t.id, 'payment', t.payment_id,
               'target', json_build_object(p.target_kind, p.target_id), 'method', p.method,
               'amount', t.amount, 'currency', t.currency, 'reason', t.reason,
               'refunded', t.refunded)::text as row
    from brigade.refund_tasks t
    join brigade.payments p on (p.tenant, p.id) = (t.tenant, t.payment_id)
    where t.tenant = requested.tenant and t.status = 'open'
      and t.id collate "C" > requested.after collate "C"
    order by t.id collate "C" limit requested.most
) found
where (select brigade.assert_era($7))
order by requested.place, found.id collate "C"
