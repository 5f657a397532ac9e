-- Deletes outcomes older than $1 days, $2 at most. By the time of the statement: that of the clock
-- would keep it from using the index.
delete from brigade.command_inbox where ctid = any (array(
    select ctid from brigade.command_inbox
    where decided_at < statement_timestamp() - make_interval(days => $1)
    limit $2))
