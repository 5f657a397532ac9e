-- Writes in one statement what every batch writes besides the aggregates themselves, all at $1:
-- outcomes ($2 to $8), events ($9 to $20), the aggregates that changed ($21 to $24), and those
-- that were projected meanwhile ($25 to $28). A row has the same place in all arrays of its kind.
with decided as (
    -- Sorted: two handlers that get the same commands wait for each other instead of deadlocking.
    insert into brigade.command_inbox
        (tenant, command_id, subject, payload_hash, outcome, actor, via, decided_at)
    select tenant, command_id, subject, payload_hash, outcome::json, actor, via, $1
    from unnest($2::text[], $3::text[], $4::text[], $5::bytea[], $6::text[], $7::text[],
                $8::text[])
         as outcome (tenant, command_id, subject, payload_hash, outcome, actor, via)
    order by tenant, command_id
), stored as (
    -- The default of seq is drawn in the order of the rows.
    insert into brigade.events
        (event_id, tenant, aggregate, id, version, type, payload, at, command_id, actor, via,
         traceparent)
    select event_id, tenant, aggregate, id, version, type, payload::json, $1, command_id, actor,
           via, traceparent
    from unnest($9::uuid[], $10::text[], $11::text[], $12::text[], $13::bigint[], $14::text[],
                $15::text[], $16::text[], $17::text[], $18::text[], $19::text[])
         with ordinality
         as event (event_id, tenant, aggregate, id, version, type, payload, command_id, actor, via,
                   traceparent, place)
    order by place
    returning event_id, seq
), queued as (
    insert into brigade.outbox (shard, seq, event_seq, event_id)
    select shard, seq, seq, event_id
    from stored
    join unnest($9::uuid[], $20::smallint[]) as queue (event_id, shard) using (event_id)
), raised as (
    -- Sorted, as everything that takes locks.
    insert into brigade.projection_backlog as entry (tenant, aggregate, id, version, at)
    select tenant, aggregate, id, version, $1
    from unnest($21::text[], $22::text[], $23::text[], $24::bigint[])
         as changed (tenant, aggregate, id, version)
    order by tenant, aggregate, id
    on conflict (tenant, aggregate, id)
    do update set version = greatest(entry.version, excluded.version), at = excluded.at
)
-- What was projected meanwhile, and is not raised above. An entry that somebody is just raising is
-- left: it speaks of a newer version.
delete from brigade.projection_backlog where ctid = any (array (
    select done.ctid
    from unnest($25::text[], $26::text[], $27::text[], $28::bigint[])
         as projected (tenant, aggregate, id, version)
    cross join lateral (
        select entry.ctid from brigade.projection_backlog entry
        where (entry.tenant, entry.aggregate, entry.id)
              = (projected.tenant, projected.aggregate, projected.id)
          and entry.version <= projected.version
        limit 1 for update skip locked
    ) done
))
