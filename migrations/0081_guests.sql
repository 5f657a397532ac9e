-- What customers may do by a secret that they were given, or a name that is theirs.

-- SHA-256 of the secret by which they join a team cart. A cart of before has none, until its owner
-- asks for one.
alter table brigade.carts add column secret_hash text;

-- The turn that a payment's order is for, where it was named.
alter table brigade.payments add column turn_id text;

-- What those secrets are derived from, so that a repeated command is answered with the same one
-- although none is kept. Only command-handler reads it.
create table brigade.secret_key (
    is_one boolean primary key default true check (is_one),
    key    bytea   not null check (length(key) = 32)
);
insert into brigade.secret_key (key)
values (sha256(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid())
               || uuid_send(gen_random_uuid())));

-- People whom programs have named as owners, members or payers. They need not be users, and no
-- stranger becomes one of them by registering the name. Not whole rows of carts and payments are
-- looked through for it: members stand in JSON.
create table brigade.named_people (
    tenant text not null,
    name   text not null,
    primary key (tenant, name)
);
