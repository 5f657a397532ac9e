-- For edge: whose aggregates are; one row for each that exists, with the cart that it belongs to, if
-- any.
create or replace function brigade.read_owners(
    era bigint, tenants text[], aggregates text[], ids text[])
returns table (tenant text, aggregate text, id text, payer text, owner text, session text,
               members text)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
begin
    perform brigade.assert_era(era);
    return query
        with requested as (
            select * from unnest(tenants, aggregates, ids) as requested (tenant, aggregate, id)
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
            from requested join brigade.payments payment using (tenant, id)
            where aggregate = 'payment'
        )
        select found.tenant, found.aggregate, found.id, found.payer, cart.owner, cart.session,
               cart.members::text
        from found
        left join brigade.carts cart on (cart.tenant, cart.id) = (found.tenant, found.cart_id);
end $$;
revoke all on function brigade.read_owners(bigint, text[], text[], text[]) from public;
