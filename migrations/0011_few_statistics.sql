-- Rows are found by key, with plans that are kept, so few statistics are enough. With as many as by
-- default an analysis sorts 30,000 rows by each column: half a second of a core, several times in the
-- first minutes of a table that grows, for which everybody waits where cores are few.
do $$
declare
    c record;
begin
    for c in
        select format('%I.%I', n.nspname, t.relname) as relation, a.attname as name
        from pg_attribute a
        join pg_class t on t.oid = a.attrelid
        join pg_namespace n on n.oid = t.relnamespace
        where n.nspname = 'brigade' and t.relkind = 'r' and a.attnum > 0 and not a.attisdropped
    loop
        execute format('alter table %s alter column %I set statistics 10', c.relation, c.name);
    end loop;
end $$;

-- What is older than 30 days is looked for each minute. A BRIN knows nothing of the pages written
-- since the last vacuum, so all of these were read.
drop index brigade.command_inbox_decided_at_idx;
create index on brigade.command_inbox (decided_at);
