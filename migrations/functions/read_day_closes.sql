-- For edge: of each request the span that it is about, by the database's clock a day where its ends
-- are not given, and the sums of the ledger of money in it, as JSON. A sum may be larger than a bigint,
-- so it is a text.
create or replace function brigade.read_day_closes(
    era bigint, tenants text[], since timestamptz[], until timestamptz[])
returns table (place bigint, begins timestamptz, ends timestamptz, lines text)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
begin
    perform brigade.assert_era(era);
    return query
        select requested.place, span.begins, span.ends, ledger.lines
        from unnest(tenants, since, until) with ordinality
             as requested (tenant, since, until, place)
        cross join lateral (
            select coalesce(requested.since, requested.until - interval '1 day',
                            date_trunc('day', clock_timestamp(), 'UTC')) as begins) began
        cross join lateral (
            select began.begins,
                   coalesce(requested.until, began.begins + interval '1 day') as ends) span
        cross join lateral (
            select coalesce(json_agg(sums), '[]')::text as lines
            from (
                select method, currency, sum(captured)::text as captured,
                       sum(applied)::text as applied, sum(refunded)::text as refunded,
                       sum(owed)::text as owed, sum(settled)::text as settled
                from brigade.money_ledger l
                where l.tenant = requested.tenant and l.at >= span.begins and l.at < span.ends
                group by method, currency order by currency, method
            ) sums
        ) ledger;
end $$;
revoke all on function brigade.read_day_closes(bigint, text[], timestamptz[], timestamptz[])
    from public;
