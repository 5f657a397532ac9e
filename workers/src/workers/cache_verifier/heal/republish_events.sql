-- Puts events into the outbox once more, in their order: $1 numbers, $2 ids, $3 shards, $4 whether
-- under new message ids. What waits in the outbox is not left out: the relay may have published it
-- into the stream that is gone, and delete its row any moment. The numbers of the queue are drawn in
-- this very statement.
insert into brigade.outbox (shard, seq, event_seq, event_id, republication)
select shard, place, seq, event_id, case when $4 then (place % 2147483647)::int else 0 end
from (
    select lost.*, nextval('brigade.events_seq_seq') as place
    from (
        select wanted.*
        from unnest($1::bigint[], $2::uuid[], $3::smallint[]) as wanted (seq, event_id, shard)
        order by wanted.seq
    ) lost
) placed
