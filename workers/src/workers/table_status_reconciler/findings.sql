-- What is wrong with some tables, by the definitions in the header of the worker; one row a table that
-- is wrong. Of each table its row is read, one turn and at most two orders, found by key, however many
-- orders a turn has; all of them in one state of the database: what one transaction changes is never
-- seen by half.
-- $1 tenants, $2 ids of tables; $3 tenants, $4 ids of orders whose tables are looked at too.
select t.tenant as "tenant!", t.id as "id!", t.version as "version!", found.finding as "finding!",
       json_build_object(
           'status', t.status, 'version', t.version,
           'turn', coalesce(open.id, latest.id, t.open_turn_id),
           -- What a command takes is limited.
           'orders', (select json_agg(json_build_object('id', o.id, 'status', o.status,
                                                        'total', o.total, 'paid', o.paid)
                                      order by o.id)
                      from (select * from brigade.orders o
                            where (o.tenant, o.turn_id) = (t.tenant, coalesce(open.id, latest.id))
                              and found.finding in ('ghost_all_paid', 'phantom_unpaid')
                              and (found.finding = 'ghost_all_paid' or o.unpaid)
                            limit 200) o))::text as "evidence!"
from (
    select tenant, id from unnest($1::text[], $2::text[]) as requested (tenant, id)
    union
    select requested.tenant, o.table_id
    from unnest($3::text[], $4::text[]) as requested (tenant, id)
    cross join lateral (
        select o.table_id from brigade.orders o
        where (o.tenant, o.id) = (requested.tenant, requested.id) and o.table_id is not null
        limit 1
    ) o
) looked
-- Each with a limit, so that it is read by key, whatever the planner believes.
cross join lateral (
    select * from brigade.tables t where (t.tenant, t.id) = (looked.tenant, looked.id) limit 1
) t
left join lateral (
    select u.id from brigade.turns u
    where (u.tenant, u.table_id) = (t.tenant, t.id) and u.closed_at is null
    limit 1
) open on true
left join lateral (
    select u.id, u.close_reason from brigade.turns u
    where (u.tenant, u.table_id) = (t.tenant, t.id)
      and t.status = 'available' and open.id is null
    order by u.opened_at desc, u.id desc limit 1
) latest on latest.close_reason is distinct from 'forced'
cross join lateral (
    select case
        when t.status = 'occupied' and open.id is null then 'ghost_no_turn'
        when open.id is not null
             and (select true from brigade.orders o
                  where (o.tenant, o.turn_id) = (t.tenant, open.id) limit 1)
             and (select true from brigade.orders o
                  where (o.tenant, o.turn_id) = (t.tenant, open.id) and o.unpaid
                  limit 1) is null then 'ghost_all_paid'
        when t.status = 'available' and open.id is not null then 'phantom_open_turn'
        when (select true from brigade.orders o
              where (o.tenant, o.turn_id) = (t.tenant, latest.id) and o.unpaid
              limit 1) then 'phantom_unpaid'
    end as finding
    offset 0
) found
where found.finding is not null
order by t.tenant, t.id
