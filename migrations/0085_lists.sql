-- Whose the orders are that carts have become: those of their owners and members. Rows are only ever
-- added: who was there when the cart was checked out stays so. Ids are compared by their bytes.
create table brigade.order_people (
    tenant     text             not null,
    person     text             not null,
    created_at timestamptz      not null, -- of the order
    order_id   text collate "C" not null,
    primary key (tenant, person, created_at, order_id)
);
insert into brigade.order_people (tenant, person, created_at, order_id)
select c.tenant, person.name, o.created_at, o.id
from brigade.carts c
join brigade.orders o on (o.tenant, o.id) = (c.tenant, c.order_id)
cross join lateral (
    select c.owner as name
    union
    select member ->> 'user' from jsonb_array_elements(c.members) member
) person
where c.status = 'checked_out'
  -- A session is nobody.
  and (c.session is distinct from c.owner or c.session is distinct from person.name);

-- The owner of the cart that an order was made of: customers have few orders at a time that nobody
-- has accepted or paid yet. Last, since it keeps everybody out until the commit.
alter table brigade.orders add column owner text;
