-- By what carts are found that nobody has changed for long: the hour of the last change, counted
-- from 1970. Not the time itself, which would have every change of a cart indexed anew; so most
-- changes still touch no indexed column. 0 where it is not known: what is found is looked at.
alter table brigade.carts add column changed_hour integer not null default 0;

-- Rows of cart_locks are deleted some time after their release. A new row of a tenant begins above
-- the highest version that was ever deleted, since others may remember that version of the same
-- owner.
create table brigade.lock_floors (
    tenant  text   primary key,
    version bigint not null
);
