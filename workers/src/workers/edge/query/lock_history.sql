-- For each request the newest entries before a place: $1 tenants, $2 owners, $3 how many at most,
-- $4 places, $5 era.
select requested.place as "place!", found.seq as "seq!", found.entry as "entry!"
from unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[]) with ordinality
     as requested (tenant, owner, most, before, place)
cross join lateral (
    select seq, json_build_object(
               'cart_id', cart_id, 'token', token, 'action', action, 'method', method,
               'reason', reason, 'actor', actor, 'at', at)::text as entry
    from brigade.cart_lock_history entry
    where (entry.tenant, entry.owner) = (requested.tenant, requested.owner)
      and entry.seq < requested.before
    order by seq desc limit requested.most
) found
where (select brigade.assert_era($5))
order by requested.place, found.seq desc
