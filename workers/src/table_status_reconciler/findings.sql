-- The tables that are not what their turns and the orders of these say, by the definitions in the
-- header of the worker; one row a table. Each branch begins with the few rows of a partial index,
-- and all of them see one state of the database: what one transaction changes is never seen by half.
-- $1: most rows.
select distinct on (t.tenant, t.id)
       t.tenant as "tenant!", t.id as "id!", t.version as "version!", found.finding as "finding!",
       json_build_object('status', t.status, 'version', t.version, 'turn', found.turn_id,
                         'orders', found.orders)::text as "evidence!"
from (
    select 1 as place, 'ghost_no_turn' as finding, t.tenant, t.id, t.open_turn_id as turn_id,
           null::json as orders
    from brigade.tables t
    where t.status = 'occupied'
      and not exists (select from brigade.turns u
                      where (u.tenant, u.table_id) = (t.tenant, t.id) and u.closed_at is null)
    union all
    select 2, 'ghost_all_paid', u.tenant, u.table_id, u.id, o.orders
    from brigade.turns u
    cross join lateral (
        select json_agg(json_build_object('id', o.id, 'status', o.status, 'total', o.total,
                                          'paid', o.paid) order by o.id) as orders,
               count(*) as placed, count(*) filter (where o.unpaid) as unpaid
        from brigade.orders o where (o.tenant, o.turn_id) = (u.tenant, u.id)
    ) o
    where u.closed_at is null and o.placed > 0 and o.unpaid = 0
    union all
    select 3, 'phantom_open_turn', u.tenant, u.table_id, u.id, null
    from brigade.turns u
    join brigade.tables t on (t.tenant, t.id) = (u.tenant, u.table_id)
    where u.closed_at is null and t.status = 'available'
    union all
    select 4, 'phantom_unpaid', u.tenant, u.table_id, u.id, o.orders
    from (select o.tenant, o.turn_id,
                 json_agg(json_build_object('id', o.id, 'status', o.status, 'total', o.total,
                                            'paid', o.paid) order by o.id) as orders
          from brigade.orders o where o.unpaid and o.turn_id is not null
          group by o.tenant, o.turn_id) o
    join brigade.turns u on (u.tenant, u.id) = (o.tenant, o.turn_id)
    join brigade.tables t on (t.tenant, t.id) = (u.tenant, u.table_id)
    where t.status = 'available' and u.closed_at is not null
      and u.close_reason is distinct from 'forced'
      and not exists (select from brigade.turns later
                      where (later.tenant, later.table_id) = (u.tenant, u.table_id)
                        and (later.opened_at, later.id) > (u.opened_at, u.id))
) found
join brigade.tables t on (t.tenant, t.id) = (found.tenant, found.id)
order by t.tenant, t.id, found.place
limit $1
