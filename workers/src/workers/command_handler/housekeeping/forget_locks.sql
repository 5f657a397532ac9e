-- Deletes those of these locks ($1 tenants, $2 owners) that were released more than $3 days ago and
-- are not in the projection backlog. A new row of the tenant begins above the highest version
-- among them.
with gone as (
    delete from brigade.cart_locks l
    using unnest($1::text[], $2::text[]) as old (tenant, owner)
    where (l.tenant, l.owner) = (old.tenant, old.owner) and l.state = 'released'
      and l.updated_at < statement_timestamp() - make_interval(days => $3)
      and not exists (select from brigade.projection_backlog entry
                      where (entry.tenant, entry.aggregate, entry.id)
                            = (l.tenant, 'lock', l.owner))
    returning l.tenant, l.version
), raised as (
    insert into brigade.lock_floors as floor (tenant, version)
    select tenant, max(version) from gone group by tenant order by tenant
    on conflict (tenant) do update set version = greatest(floor.version, excluded.version)
)
select count(*) as "count!" from gone
