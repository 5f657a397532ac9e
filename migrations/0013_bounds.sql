-- What the bounds of carts and of the history of locks are counted by, and what has gone back of a
-- refund task, which may take several refunds.
alter table brigade.refund_tasks add column refunded bigint not null default 0;
update brigade.refund_tasks set refunded = amount where status = 'done';

-- Refusals that a cart met while no lock of its owner was live. Those under a lock stand with it.
alter table brigade.carts add column refusals integer not null default 0;

-- The open carts of an owner; those of a session have an index already.
create index carts_of_owner on brigade.carts (tenant, owner) where status = 'open';
