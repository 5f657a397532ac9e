-- Locks and loads what a batch of commands needs, in one round trip.
--
-- It locks all that the commands may change, in the order in which everybody locks (owners, price
-- lists, products, tables, carts, orders, payments; each sorted), so that nobody waits in a circle. Then it reads, each kind
-- in a statement of its own that begins when the locks are held: one that locks and reads would
-- miss what another handler committed while it waited, although the outcome is found. What a
-- command turns out to need besides is requested by name for the next batch.
--
-- `request` has one array a column, by name, so that a later release can add some:
--
--   command_tenants, command_ids             the keys of the commands
--   with_tenants                             the states of their tenants are wanted, as a worker
--                                            of the release before does not know them
--   tenants, aggregates, ids, exclusive      aggregates; of an exclusive one also what it may
--                                            change: the lock of a cart's owner, the table of an
--                                            order; a product that is not is only read
--   owner_tenants, owners, owner_exclusive   owners to be locked
--   session_tenants, sessions                sessions whose open carts are needed
--   turn_tenants, turns                      turns whose tables are needed
--   fencing_tokens                           the number of fencing tokens to be drawn
--   era                                      that of the database, or the batch fails
--
-- Products that are only read are not locked, so that those who sell the same do not wait for each
-- other. The price list of their tenant is, as a whole: shared by those who read it, exclusively by
-- those who change it. So a price that was read is the list's until the commit; one lock a tenant
-- does, however many products a batch names; and whoever changes the list waits in a queue for those
-- who were there, not for all who come.
--
-- A table comes with its open or latest turn and all orders of that, which are locked too: nobody
-- places, pays or cancels one without the table's lock. Rows of any kind go out as JSON:
--
--   clock        the database's time
--   tenant       a tenant of the commands, and its state; null if it is not registered
--   outcome      the stored outcome of a command, and the command that it is of
--   backlog      the aggregate of such a command, where KV may not have its newest version yet
--   also_locked  an aggregate that was locked without being requested
--   owner        an owner that was locked: how, and its row of cart_locks
--   session      a session, and its open carts
--   token        a fencing token, drawn while the owners are locked
--   turn         a turn that was requested, and the table that it is or was at
--   cart, order, payment, table, product
create or replace function brigade.load_batch(request jsonb)
returns table (kind text, body text)
language plpgsql as $$
declare
    r         record; -- the request, to which is added what is locked besides
    requested integer;
begin
    select * into r
    from jsonb_to_record(request) as r (
        command_tenants text[], command_ids text[], with_tenants boolean,
        tenants text[], aggregates text[], ids text[], exclusive boolean[],
        owner_tenants text[], owners text[], owner_exclusive boolean[],
        session_tenants text[], sessions text[],
        turn_tenants text[], turns text[],
        fencing_tokens integer, era bigint);
    requested := cardinality(r.ids);
    -- A worker of the release before knows of none.
    if r.era is not null then
        perform brigade.assert_era(r.era);
    end if;

    -- The targets of payments, as they are now: they are read again when they are locked.
    if 'payment' = any (r.aggregates) then
        select r.tenants || coalesce(array_agg(p.tenant), '{}'),
               r.aggregates || coalesce(array_agg(p.target_kind), '{}'),
               r.ids || coalesce(array_agg(p.target_id), '{}'),
               r.exclusive || coalesce(array_agg(true), '{}')
        into r.tenants, r.aggregates, r.ids, r.exclusive
        from unnest(r.tenants, r.aggregates, r.ids) as a (tenant, aggregate, id)
        join brigade.payments p on (p.tenant, p.id) = (a.tenant, a.id)
        where a.aggregate = 'payment';
    end if;
    -- The orders that carts become, or have become, by those who pay.
    if true = any (r.exclusive) then
        select r.tenants || coalesce(array_agg(o.tenant), '{}'),
               r.aggregates || coalesce(array_agg('order'::text), '{}'),
               r.ids || coalesce(array_agg(o.order_id), '{}'),
               r.exclusive || coalesce(array_agg(true), '{}')
        into r.tenants, r.aggregates, r.ids, r.exclusive
        from (select c.tenant, c.order_id
              from unnest(r.tenants, r.aggregates, r.ids, r.exclusive)
                   as a (tenant, aggregate, id, pays)
              join brigade.carts c on (c.tenant, c.id) = (a.tenant, a.id)
              where a.aggregate = 'cart' and a.pays and c.order_id is not null
              union
              select p.tenant, p.order_id
              from unnest(r.tenants, r.aggregates, r.ids) as a (tenant, aggregate, id)
              join brigade.payments p on (p.tenant, p.id) = (a.tenant, a.id)
              where a.aggregate = 'payment' and p.order_id is not null) o;
    end if;
    -- The tables of those orders, of what carts become, and of turns. Where an order or a turn is
    -- never changes.
    if cardinality(r.turns) > 0 or true = any (r.exclusive) then
        select r.tenants || coalesce(array_agg(t.tenant), '{}'),
               r.aggregates || coalesce(array_agg('table'::text), '{}'),
               r.ids || coalesce(array_agg(t.table_id), '{}'),
               r.exclusive || coalesce(array_agg(false), '{}')
        into r.tenants, r.aggregates, r.ids, r.exclusive
        from (select o.tenant, o.table_id
              from unnest(r.tenants, r.aggregates, r.ids, r.exclusive)
                   as a (tenant, aggregate, id, firm)
              join brigade.orders o on (o.tenant, o.id) = (a.tenant, a.id)
              where a.aggregate = 'order' and a.firm and o.table_id is not null
              union
              select p.tenant, p.table_id
              from unnest(r.tenants, r.aggregates, r.ids) as a (tenant, aggregate, id)
              join brigade.payments p on (p.tenant, p.id) = (a.tenant, a.id)
              where a.aggregate = 'payment' and p.table_id is not null
              union
              select u.tenant, u.table_id
              from unnest(r.turn_tenants, r.turns) as a (tenant, id)
              join brigade.turns u on (u.tenant, u.id) = (a.tenant, a.id)) t;
    end if;

    if cardinality(r.owners) > 0 or 'cart' = any (r.aggregates) then
        -- In the order of their numbers, of equal ones the exclusive lock first.
        select coalesce(array_agg(o.tenant), '{}'), coalesce(array_agg(o.owner), '{}'),
               coalesce(array_agg(o.firm), '{}')
        into r.owner_tenants, r.owners, r.owner_exclusive
        from (select s.*, case when s.firm then pg_advisory_xact_lock(s.number)
                               else pg_advisory_xact_lock_shared(s.number) end
              from (select u.tenant, u.owner, bool_or(u.firm) as firm,
                           hashtextextended(u.tenant || '.' || u.owner, 0) as number
                    from (select * from unnest(r.owner_tenants, r.owners, r.owner_exclusive)
                          union all
                          select c.tenant, c.owner, a.firm
                          from unnest(r.tenants, r.aggregates, r.ids, r.exclusive)
                               as a (tenant, aggregate, id, firm)
                          join brigade.carts c on (c.tenant, c.id) = (a.tenant, a.id)
                          where a.aggregate = 'cart') as u (tenant, owner, firm)
                    group by u.tenant, u.owner
                    order by number, firm desc
                    offset 0) s
              offset 0) o;
    end if;
    if cardinality(r.sessions) > 0 then
        select r.tenants || coalesce(array_agg(c.tenant), '{}'),
               r.aggregates || coalesce(array_agg('cart'::text), '{}'),
               r.ids || coalesce(array_agg(c.id), '{}')
        into r.tenants, r.aggregates, r.ids
        from unnest(r.session_tenants, r.sessions) as s (tenant, session)
        join brigade.carts c on (c.tenant, c.session) = (s.tenant, s.session)
        where c.status = 'open';
    end if;
    -- The carts that are paid: the expiry of a lock is a change of its cart.
    if cardinality(r.owners) > 0 then
        select r.tenants || coalesce(array_agg(l.tenant), '{}'),
               r.aggregates || coalesce(array_agg('cart'::text), '{}'),
               r.ids || coalesce(array_agg(l.cart_id), '{}')
        into r.tenants, r.aggregates, r.ids
        from unnest(r.owner_tenants, r.owners) as o (tenant, owner)
        join brigade.cart_locks l on (l.tenant, l.owner) = (o.tenant, o.owner)
        where l.state = 'held';
    end if;

    if 'product' = any (r.aggregates) then
        perform case when l.firm then pg_advisory_xact_lock(l.number)
                     else pg_advisory_xact_lock_shared(l.number) end
        from (select hashtextextended(a.tenant || '..products', 0) as number,
                     bool_or(a.firm) as firm
              from unnest(r.tenants, r.aggregates, r.ids, r.exclusive)
                   as a (tenant, aggregate, id, firm)
              where a.aggregate = 'product'
              group by a.tenant
              order by number
              offset 0) l;
        perform from unnest(r.tenants, r.aggregates, r.ids, r.exclusive)
                     as a (tenant, aggregate, id, firm)
                join brigade.products p on (p.tenant, p.id) = (a.tenant, a.id)
                where a.aggregate = 'product' and a.firm
                order by p.tenant, p.id for update of p;
    end if;
    if 'table' = any (r.aggregates) then
        perform from (select distinct a.tenant, a.id
                      from unnest(r.tenants, r.aggregates, r.ids) as a (tenant, aggregate, id)
                      where a.aggregate = 'table') a
                join brigade.tables t on (t.tenant, t.id) = (a.tenant, a.id)
                order by t.tenant, t.id for update of t;
        select r.tenants || coalesce(array_agg(o.tenant), '{}'),
               r.aggregates || coalesce(array_agg('order'::text), '{}'),
               r.ids || coalesce(array_agg(o.id), '{}')
        into r.tenants, r.aggregates, r.ids
        from (select distinct a.tenant, a.id
              from unnest(r.tenants, r.aggregates, r.ids) as a (tenant, aggregate, id)
              where a.aggregate = 'table') a
        cross join lateral brigade.turn_at(a.tenant, a.id) u
        join brigade.orders o on (o.tenant, o.turn_id) = (u.tenant, u.id);
    end if;
    if cardinality(r.ids) > requested then
        return query
            select 'also_locked', json_build_object(
                'tenant', a.tenant, 'aggregate', a.aggregate, 'id', a.id)::text
            from unnest(r.tenants[requested + 1:], r.aggregates[requested + 1:],
                        r.ids[requested + 1:]) as a (tenant, aggregate, id);
        select array_agg(a.tenant), array_agg(a.aggregate), array_agg(a.id)
        into r.tenants, r.aggregates, r.ids
        from (select distinct * from unnest(r.tenants, r.aggregates, r.ids))
             as a (tenant, aggregate, id);
    end if;
    if 'cart' = any (r.aggregates) then
        perform from unnest(r.tenants, r.aggregates, r.ids) as a (tenant, aggregate, id)
                join brigade.carts c on (c.tenant, c.id) = (a.tenant, a.id)
                where a.aggregate = 'cart'
                order by c.tenant, c.id for update of c;
    end if;
    if 'order' = any (r.aggregates) then
        perform from unnest(r.tenants, r.aggregates, r.ids) as a (tenant, aggregate, id)
                join brigade.orders o on (o.tenant, o.id) = (a.tenant, a.id)
                where a.aggregate = 'order'
                order by o.tenant, o.id for update of o;
    end if;
    if 'payment' = any (r.aggregates) then
        perform from unnest(r.tenants, r.aggregates, r.ids) as a (tenant, aggregate, id)
                join brigade.payments p on (p.tenant, p.id) = (a.tenant, a.id)
                where a.aggregate = 'payment'
                order by p.tenant, p.id for update of p;
    end if;

    kind := 'clock';
    body := to_json(clock_timestamp())::text;
    return next;
    if r.with_tenants then
        return query
            select 'tenant', json_build_object('tenant', a.tenant, 'state', t.state)::text
            from (select distinct * from unnest(r.command_tenants)) as a (tenant)
            left join brigade.tenants t on t.tenant = a.tenant;
    end if;
    return query
        select 'outcome', json_build_object(
            'tenant', i.tenant, 'command_id', i.command_id, 'subject', i.subject,
            'payload_hash', encode(i.payload_hash, 'hex'), 'outcome', i.outcome::text,
            'actor', i.actor, 'via', i.via)::text
        from unnest(r.command_tenants, r.command_ids) as a (tenant, command_id)
        join brigade.command_inbox i on (i.tenant, i.command_id) = (a.tenant, a.command_id);
    if found then
        return query
            select 'backlog', json_build_object(
                'tenant', b.tenant, 'aggregate', b.aggregate, 'id', b.id)::text
            from unnest(r.tenants, r.aggregates, r.ids) as a (tenant, aggregate, id)
            join brigade.projection_backlog b
                 on (b.tenant, b.aggregate, b.id) = (a.tenant, a.aggregate, a.id);
    end if;
    if cardinality(r.owners) > 0 then
        return query
            select 'owner', json_build_object(
                'tenant', o.tenant, 'owner', o.owner, 'exclusive', o.firm,
                'lock', case when l.tenant is not null then row_to_json(l) end)::text
            from unnest(r.owner_tenants, r.owners, r.owner_exclusive) as o (tenant, owner, firm)
            left join brigade.cart_locks l on (l.tenant, l.owner) = (o.tenant, o.owner);
    end if;
    if cardinality(r.sessions) > 0 then
        return query
            select 'session', json_build_object(
                'tenant', s.tenant, 'session', s.session,
                'carts', coalesce(json_agg(c.id) filter (where c.id is not null), '[]'))::text
            from unnest(r.session_tenants, r.sessions) as s (tenant, session)
            left join brigade.carts c
                 on (c.tenant, c.session) = (s.tenant, s.session) and c.status = 'open'
            group by s.tenant, s.session;
    end if;
    if r.fencing_tokens > 0 then
        return query
            select 'token', nextval('brigade.lock_token')::text
            from generate_series(1, r.fencing_tokens);
    end if;
    if cardinality(r.turns) > 0 then
        return query
            select 'turn', json_build_object(
                'tenant', a.tenant, 'id', a.id, 'table_id', u.table_id)::text
            from unnest(r.turn_tenants, r.turns) as a (tenant, id)
            left join brigade.turns u on (u.tenant, u.id) = (a.tenant, a.id);
    end if;
    if 'table' = any (r.aggregates) then
        return query
            select 'table', json_build_object(
                'table', row_to_json(t), 'turn', case when u.id is not null then row_to_json(u) end,
                'orders', (
                    select coalesce(json_agg(o.id), '[]') from brigade.orders o
                    where (o.tenant, o.turn_id) = (u.tenant, u.id)))::text
            from unnest(r.tenants, r.aggregates, r.ids) as a (tenant, aggregate, id)
            join brigade.tables t on (t.tenant, t.id) = (a.tenant, a.id)
            left join lateral brigade.turn_at(t.tenant, t.id) u on true
            where a.aggregate = 'table';
    end if;
    if 'cart' = any (r.aggregates) then
        return query
            select 'cart', row_to_json(c)::text
            from unnest(r.tenants, r.aggregates, r.ids) as a (tenant, aggregate, id)
            join brigade.carts c on (c.tenant, c.id) = (a.tenant, a.id)
            where a.aggregate = 'cart';
    end if;
    if 'order' = any (r.aggregates) then
        return query
            select 'order', row_to_json(o)::text
            from unnest(r.tenants, r.aggregates, r.ids) as a (tenant, aggregate, id)
            join brigade.orders o on (o.tenant, o.id) = (a.tenant, a.id)
            where a.aggregate = 'order';
    end if;
    if 'payment' = any (r.aggregates) then
        return query
            select 'payment', json_build_object('payment', row_to_json(p), 'tasks', (
                select coalesce(json_agg(row_to_json(t) order by length(t.id), t.id), '[]')
                from brigade.refund_tasks t
                where (t.tenant, t.payment_id) = (p.tenant, p.id)))::text
            from unnest(r.tenants, r.aggregates, r.ids) as a (tenant, aggregate, id)
            join brigade.payments p on (p.tenant, p.id) = (a.tenant, a.id)
            where a.aggregate = 'payment';
    end if;
    if 'product' = any (r.aggregates) then
        return query
            select 'product', row_to_json(p)::text
            from unnest(r.tenants, r.aggregates, r.ids) as a (tenant, aggregate, id)
            join brigade.products p on (p.tenant, p.id) = (a.tenant, a.id)
            where a.aggregate = 'product';
    end if;
end $$;
