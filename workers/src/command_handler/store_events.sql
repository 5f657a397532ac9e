with stored as (
    -- The default of seq is drawn in the order of the rows.
    insert into brigade.events
        (event_id, tenant, aggregate, id, version, type, payload, at, command_id, traceparent)
    select event_id, tenant, aggregate, id, version, type, payload::json, at, command_id, traceparent
    from unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::bigint[], $6::text[],
                $7::text[], $8::timestamptz[], $9::text[], $10::text[])
         with ordinality
         as new (event_id, tenant, aggregate, id, version, type, payload, at, command_id,
                 traceparent, place)
    order by place
    returning event_id, seq
)
insert into brigade.outbox (shard, seq, event_seq, event_id)
select shard, seq, seq, event_id
from stored
join unnest($1::uuid[], $11::smallint[]) as place (event_id, shard) using (event_id)
