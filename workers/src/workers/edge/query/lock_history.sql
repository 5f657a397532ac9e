-- For each question the newest entries before a place: $1 tenants, $2 owners, $3 how many at most,
-- $4 places.
select asked.place as "place!", found.seq as "seq!", found.entry as "entry!"
from unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[]) with ordinality
     as asked (tenant, owner, most, before, place)
cross join lateral (
    select seq, json_build_object(
               'cart_id', cart_id, 'token', token, 'action', action, 'method', method,
               'reason', reason, 'actor', actor, 'at', at)::text as entry
    from brigade.cart_lock_history entry
    where (entry.tenant, entry.owner) = (asked.tenant, asked.owner) and entry.seq < asked.before
    order by seq desc limit asked.most
) found
where (select pg_current_wal_lsn()) is not null
order by asked.place, found.seq desc
