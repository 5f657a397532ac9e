-- What every batch writes besides the aggregates themselves, in one statement.
with decided as (
    -- Sorted: two handlers that get the same commands wait for each other instead of deadlocking.
    insert into brigade.command_inbox
        (tenant, command_id, subject, payload_hash, outcome, actor, decided_at)
    select tenant, command_id, subject, payload_hash, outcome::json, actor, $1
    from unnest($2::text[], $3::text[], $4::text[], $5::bytea[], $6::text[], $25::text[])
         as new (tenant, command_id, subject, payload_hash, outcome, actor)
    order by tenant, command_id
), stored as (
    -- The default of seq is drawn in the order of the rows.
    insert into brigade.events
        (event_id, tenant, aggregate, id, version, type, payload, at, command_id, traceparent)
    select event_id, tenant, aggregate, id, version, type, payload::json, $1, command_id, traceparent
    from unnest($7::uuid[], $8::text[], $9::text[], $10::text[], $11::bigint[], $12::text[],
                $13::text[], $14::text[], $15::text[])
         with ordinality
         as new (event_id, tenant, aggregate, id, version, type, payload, command_id,
                 traceparent, place)
    order by place
    returning event_id, seq
), queued as (
    insert into brigade.outbox (shard, seq, event_seq, event_id)
    select shard, seq, seq, event_id
    from stored
    join unnest($7::uuid[], $16::smallint[]) as place (event_id, shard) using (event_id)
), noted as (
    -- Sorted, as everything that takes locks.
    insert into brigade.unshown as note (tenant, aggregate, id, version, at)
    select tenant, aggregate, id, version, $1
    from unnest($17::text[], $18::text[], $19::text[], $20::bigint[])
         as new (tenant, aggregate, id, version)
    order by tenant, aggregate, id
    on conflict (tenant, aggregate, id)
    do update set version = greatest(note.version, excluded.version), at = excluded.at
)
-- What was shown meanwhile, and is not noted anew above. A note that somebody is just raising is
-- left: it speaks of a newer version.
delete from brigade.unshown where ctid = any (array (
    select done.ctid
    from unnest($21::text[], $22::text[], $23::text[], $24::bigint[])
         as shown (tenant, aggregate, id, version)
    cross join lateral (
        select note.ctid from brigade.unshown note
        where (note.tenant, note.aggregate, note.id) = (shown.tenant, shown.aggregate, shown.id)
          and note.version <= shown.version
        limit 1 for update skip locked
    ) done
))
