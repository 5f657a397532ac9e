-- Renames to the words of the field. Workers of the release before do not know the new names. Until
-- they are restarted with the new release, which is to be done next, they decide and publish
-- nothing: requests are answered 503, durable commands stay in their stream, and events in the
-- outbox. Nothing is lost.
--
-- Functions stand in migrations/functions/ from here on: `brigade migrate` makes them as they stand
-- there, and drops any other of the schema.
alter table brigade.unshown rename to projection_backlog;
alter table brigade.projection_backlog rename constraint unshown_pkey to projection_backlog_pkey;

alter table brigade.stream_marks rename to stream_checkpoints;
alter table brigade.stream_checkpoints rename constraint stream_marks_pkey
    to stream_checkpoints_pkey;
alter table brigade.stream_checkpoints rename column noted_at to taken_at;

-- 0 for the first time that an event is published, another number for each further one.
alter table brigade.outbox rename column again to republication;

alter index brigade.dead_letter_actions_standing rename to dead_letter_actions_unfinished;
