-- Eras of this database: versions count within one. A new one begins where commits may have been
-- lost: where the server has another timeline or another system identifier than that of the newest
-- row, after a failover or a restore. Which workers find that out is `brigade.begin_era`.
create table brigade.eras (
    era      bigint      primary key, -- 1, then when it began, in Unix milliseconds
    server   text        not null,    -- see brigade.server_timeline
    began_at timestamptz not null default clock_timestamp(),
    reset_at timestamptz              -- when the buckets were emptied for it; null: not yet
);

-- All that was before counts as the first one.
insert into brigade.eras (era, server, reset_at)
select 1, concat_ws('/', system_identifier, left(pg_walfile_name(pg_current_wal_lsn()), 8)),
       clock_timestamp()
from pg_control_system();
