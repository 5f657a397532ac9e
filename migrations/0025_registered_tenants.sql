-- A tenant is a row from now on: what has none does not exist. `brigade tenants` writes them.
--
-- What is removed keeps its row, since its history stays: nobody else gets the name, and with it
-- that history, without being asked.
alter table brigade.tenants
    add column state text not null default 'active'
        check (state in ('active', 'suspended', 'removed')),
    add column suspended_at timestamptz,
    add column removed_at timestamptz;

-- Those that had a command decided stay: a handler that died may have left some without a row. As
-- in 0018, from one tenant to the next by the index.
do $$
declare
    rows_of text;
begin
    foreach rows_of in array
        array['carts', 'orders', 'tables', 'users', 'payments', 'command_inbox']
    loop
        execute format(
            'insert into brigade.tenants (tenant)
             with recursive found (tenant) as (
                 (select tenant from brigade.%1$I order by tenant limit 1)
                 union all
                 select (select next.tenant from brigade.%1$I next
                         where next.tenant > found.tenant order by next.tenant limit 1)
                 from found where found.tenant is not null
             )
             select tenant from found where tenant is not null
             on conflict do nothing',
            rows_of);
    end loop;
end $$;
