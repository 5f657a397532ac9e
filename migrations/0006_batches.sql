-- What command-handler does at the start of a batch, in one round trip: locks the aggregates that
-- its commands name, kind after kind and each sorted by key, so that nobody waits in a circle; then
-- reads, each in a statement of its own that begins when the locks are held (READ COMMITTED would
-- otherwise show what stood there before another handler's commit). Rows of any kind go out as JSON.
--
--   clock     the database's time
--   outcome   a command that was decided before, and what it was decided for
--   cart, order
--   unshown   the aggregate of such a command, where KV may not show it yet
create function brigade.take_batch(
    command_tenants text[], command_ids text[],
    tenants text[], aggregates text[], ids text[])
returns table (kind text, body text)
language plpgsql
as $$
begin
    perform from unnest(tenants, aggregates, ids) as asked (tenant, aggregate, id)
            join brigade.carts c on (c.tenant, c.id) = (asked.tenant, asked.id)
            where asked.aggregate = 'cart'
            order by c.tenant, c.id for update of c;
    perform from unnest(tenants, aggregates, ids) as asked (tenant, aggregate, id)
            join brigade.orders o on (o.tenant, o.id) = (asked.tenant, asked.id)
            where asked.aggregate = 'order'
            order by o.tenant, o.id for update of o;

    return query
        select 'clock', to_json(clock_timestamp())::text;
    return query
        select 'outcome', json_build_object(
            'tenant', i.tenant, 'command_id', i.command_id, 'subject', i.subject,
            'payload_hash', encode(i.payload_hash, 'hex'), 'outcome', i.outcome::text)::text
        from unnest(command_tenants, command_ids) as asked (tenant, command_id)
        join brigade.command_inbox i using (tenant, command_id);
    if found then
        return query
            select 'unshown', json_build_object(
                'tenant', n.tenant, 'aggregate', n.aggregate, 'id', n.id)::text
            from unnest(tenants, aggregates, ids) as asked (tenant, aggregate, id)
            join brigade.unshown n using (tenant, aggregate, id);
    end if;
    return query
        select 'cart', row_to_json(c)::text
        from unnest(tenants, aggregates, ids) as asked (tenant, aggregate, id)
        join brigade.carts c on (c.tenant, c.id) = (asked.tenant, asked.id)
        where asked.aggregate = 'cart';
    return query
        select 'order', row_to_json(o)::text
        from unnest(tenants, aggregates, ids) as asked (tenant, aggregate, id)
        join brigade.orders o on (o.tenant, o.id) = (asked.tenant, asked.id)
        where asked.aggregate = 'order';
end $$;
