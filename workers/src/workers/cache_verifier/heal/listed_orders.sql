-- The orders whose rows in `active_orders` have not expired, by the index of active orders and by that
-- of those that ended, which `order by` makes the planner use. $1: for how many seconds after their end.
with recursive tenants as (
    (select tenant from brigade.orders order by tenant limit 1)
    union all
    select (select o.tenant from brigade.orders o where o.tenant > t.tenant
            order by o.tenant limit 1)
    from tenants t where t.tenant is not null
)
select tenant as "tenant!", id as "id!" from brigade.orders where active
union all
select t.tenant, o.id
from tenants t
cross join lateral (
    select o.id from brigade.orders o
    where o.tenant = t.tenant and o.ended_at is not null
      and o.ended_at > statement_timestamp() - make_interval(secs => $1)
    order by o.ended_at offset 0
) o
