-- For edge: the locks that owners hold, as JSON, the time, and whether a payment is open under one
-- that is overdue.
create or replace function brigade.read_live_locks(era bigint, tenants text[], owners text[])
returns table (tenant text, owner text, live text, now timestamptz, has_open_payment boolean)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
begin
    perform brigade.assert_era(era);
    return query
        select tenant, owner,
               json_build_object(
                   'cart', cart_id, 'method', method,
                   'acquired_at', acquired_at, 'expires_at', expires_at)::text,
               clock.now,
               expires_at <= clock.now and exists (
                   select from brigade.carts c
                   cross join lateral jsonb_array_elements(c.payments) payment
                   where (c.tenant, c.id) = (l.tenant, l.cart_id)
                     and payment -> 'token' = to_jsonb(l.token)
                     and payment ->> 'status' in ('initiated', 'unknown')
               )
        from (select clock_timestamp() as now offset 0) clock
        cross join unnest(tenants, owners) as requested (tenant, owner)
        join brigade.cart_locks l using (tenant, owner)
        where state = 'held';
end $$;
revoke all on function brigade.read_live_locks(bigint, text[], text[]) from public;
