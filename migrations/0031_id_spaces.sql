-- The way by which a command came in: `http`, `nats`, or `fleet` for what was sent from within the
-- fleet's account. Null in rows of versions before. An id of HTTP now stands in the inbox as
-- `<user>.<id>`, in a name space of the user; these versions knew one for all.
alter table brigade.command_inbox add column via text;

-- Who caused an event. Null in rows of versions before, and where nobody is named.
alter table brigade.events add column actor text;
alter table brigade.events add column via text;
