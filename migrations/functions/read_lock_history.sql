-- For edge: for each request the newest entries of an owner's history before a place, at most so
-- many.
create or replace function brigade.read_lock_history(
    era bigint, tenants text[], owners text[], limits bigint[], before bigint[])
returns table (place bigint, seq bigint, entry text)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
begin
    perform brigade.assert_era(era);
    return query
        select requested.place, found.seq, found.entry
        from unnest(tenants, owners, limits, before) with ordinality
             as requested (tenant, owner, most, before, place)
        cross join lateral (
            select seq, json_build_object(
                       'cart_id', cart_id, 'token', token, 'action', action, 'method', method,
                       'reason', reason, 'actor', actor, 'at', at)::text as entry
            from brigade.cart_lock_history entry
            where (entry.tenant, entry.owner) = (requested.tenant, requested.owner)
              and entry.seq < requested.before
            order by seq desc
            limit least(greatest(coalesce(requested.most, 0), 0), 501)
        ) found
        order by requested.place, found.seq desc;
end $$;
revoke all on function brigade.read_lock_history(bigint, text[], text[], bigint[], bigint[])
    from public;
