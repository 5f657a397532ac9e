-- Payments, the money that is owed back, and what a batch locks for them.
create table brigade.payments (
    tenant          text        not null,
    id              text        not null,
    version         bigint      not null,
    updated_at      timestamptz not null,
    target_kind     text        not null check (target_kind in ('cart', 'order')),
    target_id       text        not null,
    user_id         text, -- who pays
    method          text        not null,
    status          text        not null,
    currency        char(3)     not null,
    amount          bigint      not null, -- asked for; once captured, what was captured first
    refunded_amount bigint      not null default 0,
    applied         bigint      not null default 0,
    transaction_id  text,
    token           bigint, -- of the lock that it was initiated under
    fingerprint     text,   -- of the cart's contents then
    captures        jsonb       not null default '[]', -- [{transaction_id, amount, currency}]
    order_id        text,   -- what the cart becomes when this pays it fully
    table_id        text,
    primary key (tenant, id)
) with (fillfactor = 70);

create table brigade.refund_tasks (
    tenant     text    not null,
    id         text    not null, -- <payment>.<n>, n from 1
    payment_id text    not null,
    amount     bigint  not null,
    currency   char(3) not null,
    reason     text    not null,
    status     text    not null check (status in ('open', 'done')),
    primary key (tenant, id)
);
create index on brigade.refund_tasks (tenant, payment_id);

alter table brigade.cart_locks
    add column reason   text,                   -- why it was released
    add column refusals integer not null default 0; -- that met this token
-- What cart-lock-expiry looks for: few, since locks live for minutes.
create index cart_locks_due on brigade.cart_locks (expires_at) where state = 'held';
-- The open carts of a session, for `claim`.
create index carts_of_session on brigade.carts (tenant, session)
    where session is not null and status = 'open';

-- What command-handler does at the start of a batch, in one round trip: locks all that its commands
-- may come to, in the order in which everybody locks (owners, carts, orders, payments; each sorted),
-- so that nobody waits in a circle; then reads, each in a statement of its own that begins when the
-- locks are held (READ COMMITTED would otherwise show what stood there before another handler's
-- commit). What a command comes to besides, it finds in the next batch, which names it.
--
-- Asked for are: the ids of the commands; aggregates, of which some need their owner's lock
-- exclusively, to change it; owners; sessions whose carts are wanted; fencing tokens. Rows of any
-- kind go out as JSON:
--
--   clock    the database's time
--   outcome  a command that was decided before, and what it was decided for
--   unshown  the aggregate of such a command, where KV may not show it yet
--   reach    an aggregate that was locked without being asked for
--   owner    an owner that was locked: how, and its row of cart_locks
--   session  a session, and its open carts
--   token    a fencing token, drawn while the owners are locked
--   cart, order, payment
create function brigade.take_batch(
    command_tenants text[], command_ids text[],
    tenants text[], aggregates text[], ids text[], exclusive boolean[],
    owner_tenants text[], owners text[], owner_exclusive boolean[],
    session_tenants text[], sessions text[],
    fencing_tokens integer)
returns table (kind text, body text)
language plpgsql as $$
declare
    asked integer := cardinality(ids);
begin
    -- By relation, as it stands now: it is looked at again when it is locked.
    if 'payment' = any (aggregates) then
        select tenants || coalesce(array_agg(p.tenant), '{}'),
               aggregates || coalesce(array_agg(p.target_kind), '{}'),
               ids || coalesce(array_agg(p.target_id), '{}'),
               exclusive || coalesce(array_agg(true), '{}')
        into tenants, aggregates, ids, exclusive
        from unnest(tenants, aggregates, ids) as a (tenant, aggregate, id)
        join brigade.payments p on (p.tenant, p.id) = (a.tenant, a.id)
        where a.aggregate = 'payment';
    end if;
    -- The orders that carts become, or have become, by those who pay.
    if true = any (exclusive) then
        select tenants || coalesce(array_agg(o.tenant), '{}'),
               aggregates || coalesce(array_agg('order'::text), '{}'),
               ids || coalesce(array_agg(o.order_id), '{}'),
               exclusive || coalesce(array_agg(false), '{}')
        into tenants, aggregates, ids, exclusive
        from (select c.tenant, c.order_id
              from unnest(tenants, aggregates, ids, exclusive) as a (tenant, aggregate, id, pays)
              join brigade.carts c on (c.tenant, c.id) = (a.tenant, a.id)
              where a.aggregate = 'cart' and a.pays and c.order_id is not null
              union
              select p.tenant, p.order_id
              from unnest(tenants, aggregates, ids) as a (tenant, aggregate, id)
              join brigade.payments p on (p.tenant, p.id) = (a.tenant, a.id)
              where a.aggregate = 'payment' and p.order_id is not null) o;
    end if;

    if cardinality(owners) > 0 or 'cart' = any (aggregates) then
        select coalesce(array_agg(o.tenant), '{}'), coalesce(array_agg(o.owner), '{}'),
               coalesce(array_agg(o.firm), '{}')
        into owner_tenants, owners, owner_exclusive
        from (select u.tenant, u.owner, bool_or(u.firm) as firm
              from (select * from unnest(owner_tenants, owners, owner_exclusive)
                    union all
                    select c.tenant, c.owner, a.firm
                    from unnest(tenants, aggregates, ids, exclusive)
                         as a (tenant, aggregate, id, firm)
                    join brigade.carts c on (c.tenant, c.id) = (a.tenant, a.id)
                    where a.aggregate = 'cart') as u (tenant, owner, firm)
              group by u.tenant, u.owner) o;
        perform case when s.firm then pg_advisory_xact_lock(s.number)
                     else pg_advisory_xact_lock_shared(s.number) end
        from (select hashtextextended(o.tenant || '.' || o.owner, 0) as number,
                     bool_or(o.firm) as firm
              from unnest(owner_tenants, owners, owner_exclusive) as o (tenant, owner, firm)
              group by 1 order by 1) s;
    end if;
    if cardinality(sessions) > 0 then
        select tenants || coalesce(array_agg(c.tenant), '{}'),
               aggregates || coalesce(array_agg('cart'::text), '{}'),
               ids || coalesce(array_agg(c.id), '{}')
        into tenants, aggregates, ids
        from unnest(session_tenants, sessions) as s (tenant, session)
        join brigade.carts c on (c.tenant, c.session) = (s.tenant, s.session)
        where c.status = 'open';
    end if;
    -- The carts that are paid: the expiry of a lock is a change of its cart.
    if cardinality(owners) > 0 then
        select tenants || coalesce(array_agg(l.tenant), '{}'),
               aggregates || coalesce(array_agg('cart'::text), '{}'),
               ids || coalesce(array_agg(l.cart_id), '{}')
        into tenants, aggregates, ids
        from unnest(owner_tenants, owners) as o (tenant, owner)
        join brigade.cart_locks l on (l.tenant, l.owner) = (o.tenant, o.owner)
        where l.state = 'held';
    end if;

    perform from (select distinct a.tenant, a.id
                  from unnest(tenants, aggregates, ids) as a (tenant, aggregate, id)
                  where a.aggregate = 'cart') a
            join brigade.carts c on (c.tenant, c.id) = (a.tenant, a.id)
            order by c.tenant, c.id for update of c;
    perform from (select distinct a.tenant, a.id
                  from unnest(tenants, aggregates, ids) as a (tenant, aggregate, id)
                  where a.aggregate = 'order') a
            join brigade.orders o on (o.tenant, o.id) = (a.tenant, a.id)
            order by o.tenant, o.id for update of o;
    if 'payment' = any (aggregates) then
        perform from unnest(tenants, aggregates, ids) as a (tenant, aggregate, id)
                join brigade.payments p on (p.tenant, p.id) = (a.tenant, a.id)
                where a.aggregate = 'payment'
                order by p.tenant, p.id for update of p;
    end if;

    return query
        select 'clock', to_json(clock_timestamp())::text;
    return query
        select 'outcome', json_build_object(
            'tenant', i.tenant, 'command_id', i.command_id, 'subject', i.subject,
            'payload_hash', encode(i.payload_hash, 'hex'), 'outcome', i.outcome::text)::text
        from unnest(command_tenants, command_ids) as a (tenant, command_id)
        join brigade.command_inbox i on (i.tenant, i.command_id) = (a.tenant, a.command_id);
    if found then
        return query
            select 'unshown', json_build_object(
                'tenant', n.tenant, 'aggregate', n.aggregate, 'id', n.id)::text
            from unnest(tenants, aggregates, ids) as a (tenant, aggregate, id)
            join brigade.unshown n
                 on (n.tenant, n.aggregate, n.id) = (a.tenant, a.aggregate, a.id);
    end if;
    if cardinality(ids) > asked then
        return query
            select 'reach', json_build_object(
                'tenant', a.tenant, 'aggregate', a.aggregate, 'id', a.id)::text
            from unnest(tenants[asked + 1:], aggregates[asked + 1:], ids[asked + 1:])
                 as a (tenant, aggregate, id);
    end if;
    if cardinality(owners) > 0 then
        return query
            select 'owner', json_build_object(
                'tenant', o.tenant, 'owner', o.owner, 'exclusive', o.firm,
                'lock', case when l.tenant is not null then row_to_json(l) end)::text
            from unnest(owner_tenants, owners, owner_exclusive) as o (tenant, owner, firm)
            left join brigade.cart_locks l on (l.tenant, l.owner) = (o.tenant, o.owner);
    end if;
    if cardinality(sessions) > 0 then
        return query
            select 'session', json_build_object(
                'tenant', s.tenant, 'session', s.session,
                'carts', coalesce(json_agg(c.id) filter (where c.id is not null), '[]'))::text
            from unnest(session_tenants, sessions) as s (tenant, session)
            left join brigade.carts c
                 on (c.tenant, c.session) = (s.tenant, s.session) and c.status = 'open'
            group by s.tenant, s.session;
    end if;
    if fencing_tokens > 0 then
        return query
            select 'token', nextval('brigade.lock_token')::text
            from generate_series(1, fencing_tokens);
    end if;
    return query
        select 'cart', row_to_json(c)::text
        from (select distinct a.tenant, a.id
              from unnest(tenants, aggregates, ids) as a (tenant, aggregate, id)
              where a.aggregate = 'cart') a
        join brigade.carts c on (c.tenant, c.id) = (a.tenant, a.id);
    return query
        select 'order', row_to_json(o)::text
        from (select distinct a.tenant, a.id
              from unnest(tenants, aggregates, ids) as a (tenant, aggregate, id)
              where a.aggregate = 'order') a
        join brigade.orders o on (o.tenant, o.id) = (a.tenant, a.id);
    if 'payment' = any (aggregates) then
        return query
            select 'payment', json_build_object('payment', row_to_json(p), 'tasks', (
                select coalesce(json_agg(row_to_json(t) order by length(t.id), t.id), '[]')
                from brigade.refund_tasks t
                where (t.tenant, t.payment_id) = (p.tenant, p.id)))::text
            from (select distinct a.tenant, a.id
                  from unnest(tenants, aggregates, ids) as a (tenant, aggregate, id)
                  where a.aggregate = 'payment') a
            join brigade.payments p on (p.tenant, p.id) = (a.tenant, a.id);
    end if;
end $$;
