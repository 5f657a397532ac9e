-- For edge: pages of the open carts of users: those that they own, few, and the team carts
-- that they are members of.
create or replace function brigade.read_cart_pages(
    era bigint, tenants text[], whose text[], since timestamptz[], before timestamptz[],
    after text[], most bigint[])
returns table (place bigint, at timestamptz, id text, "row" text)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
begin
    perform brigade.assert_era(era);
    return query
        select requested.place, found.at, found.id, found.row
        from unnest(tenants, whose, since, before, after, most) with ordinality
             as requested (tenant, whose, since, before, after, most, place)
        cross join lateral (
            select 'epoch'::timestamptz as at, c.id, json_build_object(
                       'cart', c.id, 'version', c.version, 'at', c.updated_at, 'kind', c.kind,
                       'owner', c.owner, 'currency', c.currency,
                       'items', jsonb_array_length(c.items), 'total', (
                           select coalesce(sum((item ->> 'unit_price')::numeric
                                               * (item ->> 'quantity')::numeric), 0)::bigint
                           from jsonb_array_elements(c.items) item),
                       'paid', c.paid, 'locked_until', c.locked_until)::text as row
            from (
                select own.id from brigade.carts own
                where (own.tenant, own.owner) = (requested.tenant, requested.whose)
                  and own.status = 'open'
                union
                select team.id from brigade.carts team
                where team.tenant = requested.tenant and team.kind = 'team' and team.status = 'open'
                  and team.members @> jsonb_build_array(jsonb_build_object('user', requested.whose))
            ) mine
            join brigade.carts c on (c.tenant, c.id) = (requested.tenant, mine.id)
            where c.id > requested.after
              -- A session is nobody, whoever has its name.
              and (c.session is distinct from c.owner or c.session is distinct from requested.whose)
            order by c.id
            limit least(greatest(coalesce(requested.most, 0), 0), 501)
        ) found
        order by requested.place, found.id;
end $$;
revoke all on function brigade.read_cart_pages(
    bigint, text[], text[], timestamptz[], timestamptz[], text[], bigint[])
    from public;
