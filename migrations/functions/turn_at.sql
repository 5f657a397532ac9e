-- Returns the open turn of a table; where there is none, the latest one.
create or replace function brigade.turn_at(tenant text, table_id text)
returns setof brigade.turns
language sql stable as $$
    (select u.* from brigade.turns u
     where (u.tenant, u.table_id) = ($1, $2) and u.closed_at is null)
    union all
    (select u.* from brigade.turns u
     where (u.tenant, u.table_id) = ($1, $2)
       and not exists (select from brigade.turns o
                       where (o.tenant, o.table_id) = ($1, $2) and o.closed_at is null)
     order by u.opened_at desc, u.id desc limit 1)
$$;
