-- For edge: pages of tables.
create or replace function brigade.read_table_pages(
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
            select 'epoch'::timestamptz as at, t.id, json_build_object(
                       'table', t.id, 'version', t.version, 'at', t.updated_at, 'label', t.label,
                       'seats', t.seats, 'status', t.status,
                       'open_turn', case when u.id is not null then json_build_object(
                           'id', u.id, 'party_size', u.party_size, 'opened_at', u.opened_at) end
                   )::text as row
            from brigade.tables t
            left join brigade.turns u on (u.tenant, u.id) = (t.tenant, t.open_turn_id)
            where t.tenant = requested.tenant and t.id > requested.after
            order by t.id
            limit least(greatest(coalesce(requested.most, 0), 0), 501)
        ) found
        order by requested.place, found.id;
end $$;
revoke all on function brigade.read_table_pages(
    bigint, text[], text[], timestamptz[], timestamptz[], text[], bigint[])
    from public;
