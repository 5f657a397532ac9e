-- no-transaction
create index concurrently carts_of_member on brigade.carts using gin (members jsonb_path_ops)
    where kind = 'team' and status = 'open';
