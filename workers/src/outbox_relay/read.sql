-- The oldest events of some shards, in the order of the queue: $1 shards, $2 their floors,
-- $3 most rows of a shard. Both joins can only be done by index, whatever the planner believes
-- about tables that are empty at one moment and full at the next.
select o.shard as "shard!", o.seq as "seq!", o.event_id as "event_id!", o.again as "again!",
       e.tenant as "tenant!", e.aggregate as "aggregate!", e.id as "id!", e.version as "version!",
       e.type as "name!", e.payload::text as "payload!", e.at as "at!",
       e.command_id as "command_id!", e.traceparent as "traceparent?"
from unnest($1::smallint[], $2::bigint[]) as due (shard, floor)
cross join lateral (
    select * from brigade.outbox queued
    where queued.shard = due.shard and queued.seq > due.floor
    order by queued.seq
    limit $3
) o
cross join lateral (select * from brigade.events event where event.seq = o.event_seq limit 1) e
order by o.seq
