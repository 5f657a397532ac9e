-- How many of some aggregates ($1 tenants, $2 aggregates, $3 ids) are overdue in the projection backlog,
-- and whether anything is.
with sampled as (
    select count(*) as count
    from unnest($1::text[], $2::text[], $3::text[]) as sample (tenant, aggregate, id)
    cross join lateral (
        select from brigade.projection_backlog entry
        where (entry.tenant, entry.aggregate, entry.id)
              = (sample.tenant, sample.aggregate, sample.id)
          and entry.at < statement_timestamp() - interval '2 seconds'
        limit 1
    ) overdue
)
select count as "sampled!",
       case when count > 0 then true
            -- By key, so that the rows that were deleted are passed over.
            else coalesce((select true from brigade.projection_backlog
                           where at < statement_timestamp() - interval '2 seconds'
                           order by tenant, aggregate, id limit 1), false) end as "any!"
from sampled
