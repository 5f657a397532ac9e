-- For edge: pages of the refund tasks that are open, of one payment where `whose` names one. Its ids
-- begin with that and a point, and all stand before what follows with a slash.
create or replace function brigade.read_refund_task_pages(
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
                       'task', t.id, 'payment', t.payment_id,
                       'target', json_build_object(p.target_kind, p.target_id), 'method', p.method,
                       'amount', t.amount, 'currency', t.currency, 'reason', t.reason,
                       'refunded', t.refunded, 'settled', t.settled,
                       'requested_at', t.requested_at)::text as row
            from brigade.refund_tasks t
            join brigade.payments p on (p.tenant, p.id) = (t.tenant, t.payment_id)
            where t.tenant = requested.tenant and t.status = 'open'
              and t.id collate "C" > greatest(
                  requested.after collate "C", nullif(requested.whose, '') || '.')
              and t.id collate "C" < coalesce(nullif(requested.whose, '') || '/', '~')
            order by t.id collate "C"
            limit least(greatest(coalesce(requested.most, 0), 0), 501)
        ) found
        order by requested.place, found.id collate "C";
end $$;
revoke all on function brigade.read_refund_task_pages(
    bigint, text[], text[], timestamptz[], timestamptz[], text[], bigint[])
    from public;
