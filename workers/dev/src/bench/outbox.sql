-- $1 events and their outbox rows, as command-handler writes them, that no command caused: of the
-- aggregates $7 || `0`, `1` … ($2 of them) of the kind $3, by the name $4 and with the payload $5.
-- They are spread over the $6 shards of the relay; with 0 they are in one that no relay looks at.
with stored as (
    insert into brigade.events
        (event_id, tenant, aggregate, id, version, type, payload, at, command_id)
    select gen_random_uuid(), 'bench', $3, $7 || n % $2, 1 + n / $2, $4, $5::json, now(), $7 || n
    from generate_series(0, $1 - 1) n
    order by n
    returning seq, event_id, id
)
insert into brigade.outbox (shard, seq, event_seq, event_id)
select case when $6 = 0 then 99 else abs(hashtext(id)) % $6 end, seq, seq, event_id from stored
