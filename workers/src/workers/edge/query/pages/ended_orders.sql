-- Pages of the orders that have ended within bounds of time.
-- $1 tenants, $2 whose, $3 and $4 bounds in time, $5 ids of places, $6 how many at most, $7 era.
select requested.place as "place!", found.at as "at!", found.id as "id!", found.row as "row!"
from unnest($1::text[], $2::text[], $3::timestamptz[], $4::timestamptz[], $5::text[], $6::bigint[])
     with ordinality as requested (tenant, whose, since, before, after, most, place)
cross join lateral (
    select o.ended_at as at, o.id, json_build_object(
               'order', o.id, 'version', o.version, 'status', o.status, 'currency', o.currency,
               'cart_id', o.cart_id, 'table_id', o.table_id, 'turn_id', o.turn_id,
               'items', jsonb_array_length(o.items), 'total', o.total, 'paid', o.paid,
               'refunded', o.refunded, 'created_at', o.created_at, 'paid_at', o.paid_at,
               'ended_at', o.ended_at, 'reason', o.reason)::text as row
    from brigade.orders o
    where o.tenant = requested.tenant and o.ended_at >= requested.since
      and o.ended_at <= requested.before
      and (o.ended_at, o.id collate "C") < (requested.before, requested.after collate "C")
    order by o.ended_at desc, o.id collate "C" desc limit requested.most
) found
where (select brigade.assert_era($7))
order by requested.place, found.at desc, found.id collate "C" desc
