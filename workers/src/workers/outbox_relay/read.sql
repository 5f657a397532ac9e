-- The oldest events of some shards, in the order of the queue: $1 shards, $2 their floors,
-- $3 most rows of a shard, $4 bytes of payload, $5 the server whose floors these are. Both joins can only be done by index, whatever the
-- planner believes about tables that are empty at one moment and full at the next. Of what lies
-- behind the first $4 bytes only the places come; the length of a payload that is stored beside its
-- row is known without fetching it.
select shard as "shard!", seq as "seq!", event_seq as "event_seq!", event_id as "event_id!",
       republication as "again!", tenant as "tenant!", aggregate as "aggregate!", id as "id!",
       version as "version!", type as "name!",
       case when bytes_to_here - bytes < $4 then payload::text end as "payload?",
       at as "at!", command_id as "command_id!", actor as "actor?", via as "via?",
       traceparent as "traceparent?"
from (
    select o.*, e.tenant, e.aggregate, e.id, e.version, e.type, e.payload, e.at, e.command_id,
           e.actor, e.via, e.traceparent, octet_length(e.payload::text) as bytes,
           sum(octet_length(e.payload::text))
               over (order by o.seq rows unbounded preceding) as bytes_to_here
    from unnest($1::smallint[], $2::bigint[]) as due (shard, floor)
    cross join lateral (
        select * from brigade.outbox queued
        where queued.shard = due.shard and queued.seq > due.floor
        order by queued.seq
        limit $3
    ) o
    cross join lateral (select * from brigade.events event where event.seq = o.event_seq limit 1) e
) queued
where (select brigade.assert_incarnation($5))
order by seq
