-- Who sent a command, so that its outcome can be told to that user and to no other.
alter table brigade.command_inbox add column actor text;
