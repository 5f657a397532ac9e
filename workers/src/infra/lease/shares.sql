-- One round of a member: $1 the group, $2 the member, $3 how long it counts as alive without
-- another round (seconds), $4 the number of shares.
--
-- The row `<group>.member.<member>` says that the member is alive. The row `<group>.share.<n>`
-- says who holds share n; it is written only when the share changes hands, and is worth nothing
-- once its holder is not alive.
with clock as materialized (
    select clock_timestamp() as now
), renewed as (
    insert into brigade.leases (name, holder, until)
    select $1 || '.member.' || $2, $2, now + make_interval(secs => $3) from clock
    on conflict (name) do update set until = excluded.until
), forgotten as (
    -- Long dead; nobody counts it.
    delete from brigade.leases l using clock
    where starts_with(l.name, $1 || '.member.') and l.until < now - interval '1 minute'
      and l.holder <> $2
), alive as materialized (
    select l.holder from brigade.leases l, clock
    where starts_with(l.name, $1 || '.member.') and l.until > now
    union
    select $2
), fair as materialized (
    select ceil($4::bigint::float8 / count(*))::bigint as most from alive
), mine as materialized (
    select l.name, row_number() over (order by l.name) as place
    from brigade.leases l
    where starts_with(l.name, $1 || '.share.') and l.holder = $2
), released as (
    update brigade.leases l set holder = ''
    from mine, fair
    where l.name = mine.name and l.holder = $2 and mine.place > fair.most
    returning l.name
), free as materialized (
    -- At random, and without waiting: others look for shares at the same moment.
    select l.name from brigade.leases l
    where starts_with(l.name, $1 || '.share.') and l.holder <> $2
      and not exists (select from alive where alive.holder = l.holder)
    order by random()
    limit greatest(0, (select most from fair) - (select count(*) from mine))
    for update skip locked
), taken as (
    update brigade.leases l set holder = $2 from free where l.name = free.name
    returning l.name
), made as (
    insert into brigade.leases (name, holder, until)
    select $1 || '.share.' || n, '', 'infinity' from generate_series(0, $4 - 1) as n
    on conflict (name) do nothing
    returning name
)
select
    array(
        select substr(name, length($1 || '.share.') + 1)::smallint
        from (select mine.name from mine, fair where mine.place <= fair.most
              union all select name from taken) as held
    ) as "held!",
    (select count(*) from released) as "released!",
    (select count(*) from made) as "made!"
