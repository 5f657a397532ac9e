-- The tenants that there are: command-handler adds each of whom it decides a command. While one of
-- them floods the stream of commands, the others are known by this.
create table brigade.tenants (
    tenant     text        primary key,
    created_at timestamptz not null default now()
);

-- The newest of them are read.
create index tenants_created_at on brigade.tenants (created_at);

-- Those that there are already: from one tenant to the next by the index, however many rows each has.
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
