-- For edge: the products of each page of a price list, as JSON, with the digest of
-- read_product_digests.
create or replace function brigade.read_product_pages(
    era bigint, tenants text[], after text[], limits bigint[])
returns table (place bigint, digest text, products text)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
begin
    perform brigade.assert_era(era);
    return query
        select requested.place,
               md5(coalesce(string_agg(p.id || '@' || p.version, ' ' order by p.id collate "C"),
                            '')),
               coalesce(json_agg(json_build_object(
                   'sku', p.id, 'version', p.version, 'name', p.name,
                   'unit_price', p.unit_price, 'currency', p.currency,
                   'category', p.category, 'available', p.available)
                   order by p.id collate "C")
                   filter (where p.id is not null), '[]')::text
        from unnest(tenants, after, limits) with ordinality
             as requested (tenant, after, most, place)
        left join lateral (
            select p.* from brigade.products p
            where p.tenant = requested.tenant and p.listed
              and p.id collate "C" > requested.after collate "C"
            order by p.id collate "C"
            limit least(greatest(coalesce(requested.most, 0), 0), 401)
        ) p on true
        group by requested.place;
end $$;
revoke all on function brigade.read_product_pages(bigint, text[], text[], bigint[]) from public;
