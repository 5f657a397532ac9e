-- For edge: the digest of each page of a price list: what follows the sku `after`, at most so many.
create or replace function brigade.read_product_digests(
    era bigint, tenants text[], after text[], limits bigint[])
returns table (place bigint, digest text)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
begin
    perform brigade.assert_era(era);
    return query
        select requested.place, page.digest
        from unnest(tenants, after, limits) with ordinality
             as requested (tenant, after, most, place)
        cross join lateral (
            select md5(coalesce(string_agg(p.id || '@' || p.version, ' '
                                           order by p.id collate "C"), '')) as digest
            from (select p.id, p.version from brigade.products p
                  where p.tenant = requested.tenant and p.listed
                    and p.id collate "C" > requested.after collate "C"
                  order by p.id collate "C"
                  limit least(greatest(coalesce(requested.most, 0), 0), 401)) p
        ) page;
end $$;
revoke all on function brigade.read_product_digests(bigint, text[], text[], bigint[]) from public;
