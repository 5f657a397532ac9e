-- The next entries of the projection backlog that are overdue, by key: $1 seconds after which they
-- are; $2 tenant, $3 aggregate, $4 id of the last one before; $5 most of them.
select at, tenant, aggregate, id, version from brigade.projection_backlog
where (tenant, aggregate, id) > ($2, $3, $4)
  and at < statement_timestamp() - make_interval(secs => $1)
order by tenant, aggregate, id limit $5
