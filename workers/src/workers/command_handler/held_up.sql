-- Those of these aggregates ($1 tenants, $2 aggregates, $3 ids) that somebody else has locked. It
-- waits for nothing but locks of whole tables.
with requested as (
    select tenant, aggregate, id
    from unnest($1::text[], $2::text[], $3::text[]) as requested (tenant, aggregate, id)
), needed as (
    -- Each with what every command on it locks besides: a payment comes with its target.
    select tenant, aggregate, id, aggregate as kind, id as name from requested
    union
    select a.tenant, a.aggregate, a.id, x.kind, x.name
    from requested a
    join brigade.payments p on (p.tenant, p.id) = (a.tenant, a.id)
    cross join lateral (values (p.target_kind, p.target_id), ('order', p.order_id),
                               ('table', p.table_id)) as x (kind, name)
    where a.aggregate = 'payment' and x.name is not null
), free as (
    -- Shared, so that two who look do not find each other.
    select 'cart' as kind, c.tenant, c.id from (
        select c.tenant, c.id from needed r
        join brigade.carts c on (c.tenant, c.id) = (r.tenant, r.name)
        where r.kind = 'cart' for share of c skip locked) c
    union all
    select 'order', o.tenant, o.id from (
        select o.tenant, o.id from needed r
        join brigade.orders o on (o.tenant, o.id) = (r.tenant, r.name)
        where r.kind = 'order' for share of o skip locked) o
    union all
    select 'payment', p.tenant, p.id from (
        select p.tenant, p.id from needed r
        join brigade.payments p on (p.tenant, p.id) = (r.tenant, r.name)
        where r.kind = 'payment' for share of p skip locked) p
    union all
    select 'table', t.tenant, t.id from (
        select t.tenant, t.id from needed r
        join brigade.tables t on (t.tenant, t.id) = (r.tenant, r.name)
        where r.kind = 'table' for share of t skip locked) t
    union all
    select 'product', p.tenant, p.id from (
        select p.tenant, p.id from needed r
        join brigade.products p on (p.tenant, p.id) = (r.tenant, r.name)
        where r.kind = 'product' for share of p skip locked) p
    union all
    select 'user', u.tenant, u.id from (
        select u.tenant, u.id from needed r
        join brigade.users u on (u.tenant, u.id) = (r.tenant, r.name)
        where r.kind = 'user' for share of u skip locked) u
), owners as (
    -- The locks of owners; the owner of a cart is locked with each of its carts, the price list of a
    -- tenant with each of its products, also with those that are not there.
    select o.kind, o.tenant, o.id, pg_try_advisory_xact_lock_shared(o.number) as free
    from (select 'lock' as kind, r.tenant, r.name as id,
                 hashtextextended(r.tenant || '.' || r.name, 0) as number
          from needed r
          where r.kind = 'lock'
          union
          select 'cart', c.tenant, c.id, hashtextextended(c.tenant || '.' || c.owner, 0)
          from needed r
          join brigade.carts c on (c.tenant, c.id) = (r.tenant, r.name)
          where r.kind = 'cart'
          union
          select 'product', r.tenant, r.name, hashtextextended(r.tenant || '..products', 0)
          from needed r
          where r.kind = 'product'
          offset 0) o
    offset 0
), there as (
    select r.*,
           exists (select from brigade.carts c where (c.tenant, c.id) = (r.tenant, r.name)) as is_there
    from needed r where r.kind = 'cart'
    union all
    select r.*, exists (select from brigade.orders o where (o.tenant, o.id) = (r.tenant, r.name))
    from needed r where r.kind = 'order'
    union all
    select r.*, exists (select from brigade.payments p where (p.tenant, p.id) = (r.tenant, r.name))
    from needed r where r.kind = 'payment'
    union all
    select r.*, exists (select from brigade.tables t where (t.tenant, t.id) = (r.tenant, r.name))
    from needed r where r.kind = 'table'
    union all
    select r.*, exists (select from brigade.products p where (p.tenant, p.id) = (r.tenant, r.name))
    from needed r where r.kind = 'product'
    union all
    select r.*, exists (select from brigade.users u where (u.tenant, u.id) = (r.tenant, r.name))
    from needed r where r.kind = 'user'
)
select t.tenant as "tenant!", t.aggregate as "aggregate!", t.id as "id!"
from there t
where t.is_there
  and not exists (select from free f where (f.kind, f.tenant, f.id) = (t.kind, t.tenant, t.name))
union
select r.tenant, r.aggregate, r.id
from needed r
join owners o on (o.kind, o.tenant, o.id) = (r.kind, r.tenant, r.name)
where not o.free
