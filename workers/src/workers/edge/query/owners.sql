-- The owners of aggregates ($1 tenants, $2 aggregates, $3 ids, $4 era): one row for each that exists,
-- with the cart that it belongs to, if any.
with requested as (
    select * from unnest($1::text[], $2::text[], $3::text[]) as requested (tenant, aggregate, id)
    where (select brigade.assert_era($4))
), found as (
    select tenant, aggregate, id, id as cart_id, null as payer
    from requested where aggregate = 'cart'
    union all
    select tenant, aggregate, id, placed.cart_id, null
    from requested join brigade.orders placed using (tenant, id) where aggregate = 'order'
    union all
    select tenant, aggregate, payment.id,
           case target_kind when 'cart' then target_id else (
               select cart_id from brigade.orders placed
               where (placed.tenant, placed.id) = (payment.tenant, payment.target_id)
           ) end,
           payment.user_id
    from requested join brigade.payments payment using (tenant, id) where aggregate = 'payment'
)
select found.tenant as "tenant!", found.aggregate as "aggregate!", found.id as "id!",
       found.payer, cart.owner as "owner?", cart.session,
       cart.members::text as members
from found left join brigade.carts cart on (cart.tenant, cart.id) = (found.tenant, found.cart_id)
