-- What a person has settled of a refund task, and since when it is owed.
alter table brigade.refund_tasks add column settled bigint not null default 0;
alter table brigade.refund_tasks
    add column requested_at timestamptz not null default now();
update brigade.refund_tasks t set requested_at = p.updated_at
from brigade.payments p where (p.tenant, p.id) = (t.tenant, t.payment_id);

-- What each batch has moved between the sums of money: one row a tenant, method and currency that it
-- moved anything of, written in its transaction. Rows are only added, so nobody waits for another's;
-- the close of a day adds up those of the day. Amounts that were taken away are negative.
create table brigade.money_ledger (
    seq      bigint      generated always as identity primary key,
    tenant   text        not null,
    at       timestamptz not null, -- of the decision, by the database's clock
    method   text        not null,
    currency char(3)     not null,
    captured numeric     not null, -- came in
    applied  numeric     not null, -- pays carts and orders, less what has gone back of that
    refunded numeric     not null, -- has gone back
    owed     numeric     not null, -- by open refund tasks
    settled  numeric     not null  -- by a person
);
create index money_ledger_of_tenant on brigade.money_ledger (tenant, at);

-- What there is already, as of the last change of each payment.
insert into brigade.money_ledger
    (tenant, at, method, currency, captured, applied, refunded, owed, settled)
select p.tenant, p.updated_at, p.method, c.currency, c.captured,
       case when c.currency = p.currency
            then p.applied - (p.refunded_amount - coalesce(t.refunded, 0)) else 0 end,
       case when c.currency = p.currency
            then p.refunded_amount else coalesce(t.refunded, 0) end,
       coalesce(t.owed, 0), 0
from brigade.payments p
cross join lateral (
    select e.currency, sum(e.amount) as captured
    from jsonb_to_recordset(p.captures) as e (amount bigint, currency text)
    group by e.currency) c
left join lateral (
    select sum(r.refunded) as refunded, sum(r.amount - r.refunded) as owed
    from brigade.refund_tasks r
    where (r.tenant, r.payment_id) = (p.tenant, p.id) and r.currency = c.currency) t on true
order by p.updated_at;

-- It balances, entry by entry; what stood there before is not held against it.
alter table brigade.money_ledger add constraint money_ledger_balances
    check (captured = applied + refunded + owed + settled) not valid;
