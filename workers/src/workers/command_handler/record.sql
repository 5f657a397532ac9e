-- Writes in one statement what every batch writes besides the aggregates themselves, all at $1:
-- outcomes ($2 to $7), events ($8 to $17), the aggregates that changed ($18 to $21), and those
-- that were projected meanwhile ($22 to $25). A row has the same place in all arrays of its kind.
with decided as (
    -- Sorted: two handlers that get the same commands wait for each other instead of deadlocking.
    insert into brigade.command_inbox
        (tenant, command_id, subject, payload_hash, outcome, actor, decided_at)
    select tenant, command_id, subject, payload_hash, outcome::json, actor, $1
    from unnest($2::text[], $3::text[], $4::text[], $5::bytea[], $6::text[], $7::text[])
         as outcome (tenant, command_id, subject, payload_hash, outcome, actor)
    order by tenant, command_id
), stored as (
    -- The default of seq is drawn in the order of the rows.
    insert into brigade.events
        (event_id, tenant, aggregate, id, version, type, payload, at, command_id, traceparent)
    select event_id, tenant, aggregate, id, version, type, payload::json, $1, command_id,
           traceparent
    from unnest($8::uuid[], $9::text[], $10::text[], $11::text[], $12::bigint[], $13::text[],
                $14::text[], $15::text[], $16::text[])
         with ordinality
         as event (event_id, tenant, aggregate, id, version, type, payload, command_id,
                   traceparent, place)
    order by place
    returning event_id, seq
), queued as (
    insert into brigade.outbox (shard, seq, event_seq, event_id)
    select shard, seq, seq, event_id
    from stored
    join unnest($8::uuid[], $17::smallint[]) as queue (event_id, shard) using (event_id)
), raised as (
    -- Sorted, as everything that takes locks.
    insert into brigade.projection_backlog as entry (tenant, aggregate, id, version, at)
    select tenant, aggregate, id, version, $1
    from unnest($18::text[], $19::text[], $20::text[], $21::bigint[])
         as changed (tenant, aggregate, id, version)
    order by tenant, aggregate, id
    on conflict (tenant, aggregate, id)
    do update set version = greatest(entry.version, excluded.version), at = excluded.at
)
-- What was projected meanwhile, and is not raised above. An entry that somebody is just raising is
-- left: it speaks of a newer version.
delete from brigade.projection_backlog where ctid = any (array (
    select done.ctid
    from unnest($22::text[], $23::text[], $24::text[], $25::bigint[])
         as projected (tenant, aggregate, id, version)
    cross join lateral (
        select entry.ctid from brigade.projection_backlog entry
        where (entry.tenant, entry.aggregate, entry.id)
              = (projected.tenant, projected.aggregate, projected.id)
          and entry.version <= projected.version
        limit 1 for update skip locked
    ) done
))
