-- Puts the newest event that carries each of these parts into the outbox once more: $1 tenants,
-- $2 aggregates, $3 ids, $4 shards, $5 parts. One event may carry two. The numbers of the queue are
-- drawn in this very statement, after the events are in order, and make the repetitions distinct.
insert into brigade.outbox (shard, seq, event_seq, event_id, republication)
select shard, place, seq, event_id, (place % 2147483647)::int
from (
    select lost.*, nextval('brigade.events_seq_seq') as place
    from (
        select distinct requested.shard, newest.seq, newest.event_id
        from unnest($1::text[], $2::text[], $3::text[], $4::smallint[], $5::text[])
             as requested (tenant, aggregate, id, shard, part)
        cross join lateral (
            select e.seq, e.event_id from brigade.events e
            where (e.tenant, e.aggregate, e.id)
                  = (requested.tenant, requested.aggregate, requested.id)
              and e.payload -> 'after' -> requested.part is not null
            order by e.version desc limit 1
        ) newest
        order by newest.seq
    ) lost
) placed
