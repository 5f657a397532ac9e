-- Pages of the open carts of users: those that they own, few, and the team carts that they are
-- members of.
-- $1 tenants, $2 whose, $3 and $4 bounds in time, $5 ids of places, $6 how many at most, $7 era.
select requested.place as "place!", found.at as "at!", found.id as "id!", found.row as "row!"
from unnest($1::text[], $2::text[], $3::timestamptz[], $4::timestamptz[], $5::text[], $6::bigint[])
     with ordinality as requested (tenant, whose, since, before, after, most, place)
cross join lateral (
    select 'epoch'::timestamptz as at, c.id, json_build_object(
               'cart', c.id, 'version', c.version, 'at', c.updated_at, 'kind', c.kind,
               'owner', c.owner, 'currency', c.currency, 'items', jsonb_array_length(c.items),
               'total', (
                   select coalesce(sum((item ->> 'unit_price')::numeric
                                       * (item ->> 'quantity')::numeric), 0)::bigint
                   from jsonb_array_elements(c.items) item),
               'paid', c.paid, 'locked_until', c.locked_until)::text as row
    from (
        select own.id from brigade.carts own
        where (own.tenant, own.owner) = (requested.tenant, requested.whose) and own.status = 'open'
        union
        select team.id from brigade.carts team
        where team.tenant = requested.tenant and team.kind = 'team' and team.status = 'open'
          and team.members @> jsonb_build_array(jsonb_build_object('user', requested.whose))
    ) mine
    join brigade.carts c on (c.tenant, c.id) = (requested.tenant, mine.id)
    where c.id > requested.after
      -- A session is nobody, whoever has its name.
      and (c.session is distinct from c.owner or c.session is distinct from requested.whose)
    order by c.id limit requested.most
) found
where (select brigade.assert_era($7))
order by requested.place, found.id
