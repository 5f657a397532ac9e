-- The people whom programs have named so far. A release before that goes on naming some is not seen;
-- of the owners of open carts `register` looks at the carts as well.
insert into brigade.named_people (tenant, name)
select tenant, owner from brigade.carts where owner is distinct from session
union
select tenant, member ->> 'user'
from brigade.carts cross join jsonb_array_elements(members) as member
where kind = 'team' and member ->> 'user' is distinct from session
union
select tenant, user_id from brigade.payments where user_id is not null
on conflict do nothing;
