-- A sign of life of a worker, and how many of each worker gave one of late. `sign` has, by name, the
-- columns of `brigade.instances` but for the times, so that a later release can add some; with
-- `leaves` the worker drains and is not to be missed.
--
-- Six seconds are three signs. What was silent for a day is nobody's business any more.
create or replace function brigade.beat(sign jsonb)
returns table (worker text, alive bigint)
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
begin
    if (sign ->> 'leaves')::boolean then
        delete from brigade.instances i where i.instance = sign ->> 'instance';
    else
        insert into brigade.instances as i
            (instance, worker, holder, version, host, process, trouble, started_at, seen_at)
        select s.instance, s.worker, s.holder, s.version, s.host, s.process, s.trouble,
               clock_timestamp(), clock_timestamp()
        from jsonb_to_record(sign) as s (instance text, worker text, holder text, version text,
                                         host text, process bigint, trouble text)
        on conflict (instance) do update
            set holder = excluded.holder, trouble = excluded.trouble, seen_at = excluded.seen_at;
        delete from brigade.instances i
        where i.worker = sign ->> 'worker' and i.seen_at < clock_timestamp() - interval '1 day';
    end if;
    return query
        select i.worker, count(*) from brigade.instances i
        where i.seen_at > clock_timestamp() - interval '6 seconds' group by i.worker;
end $$;
revoke all on function brigade.beat(jsonb) from public;
