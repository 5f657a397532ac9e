-- Pages of tables.
-- $1 tenants, $2 whose, $3 and $4 bounds in time, $5 ids of places, $6 how many at most, $7 era.
select requested.place as "place!", found.at as "at!", found.id as "id!", found.row as "row!"
from unnest($1::text[], $2::text[], $3::timestamptz[], $4::timestamptz[], $5::text[], $6::bigint[])
     with ordinality as requested (tenant, whose, since, before, after, most, place)
cross join lateral (
    select 'epoch'::timestamptz as at, t.id, json_build_object(
               'table', t.id, 'version', t.version, 'at', t.updated_at, 'label', t.label,
               'seats', t.seats, 'status', t.status,
               'open_turn', case when u.id is not null then json_build_object(
                   'id', u.id, 'party_size', u.party_size, 'opened_at', u.opened_at) end
           )::text as row
    from brigade.tables t
    left join brigade.turns u on (u.tenant, u.id) = (t.tenant, t.open_turn_id)
    where t.tenant = requested.tenant and t.id > requested.after
    order by t.id limit requested.most
) found
where (select brigade.assert_era($7))
order by requested.place, found.id
