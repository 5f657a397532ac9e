-- The next open carts with nothing paid that may be idle, by the hour of their last change: $1
-- hours after which they are; $2 hour, $3 tenant, $4 id of the last one before; $5 most of them.
-- They are `idle` where nothing keeps them as they are. Each is read by the index, whatever becomes
-- of it.
select c.tenant as "tenant!", c.id as "id!", c.version as "version!", c.changed_hour as "hour!",
       c.updated_at < statement_timestamp() - make_interval(hours => $1)
       -- By key, and not by the index of those that are held.
       and (select l.state from brigade.cart_locks l
            where (l.tenant, l.owner) = (c.tenant, c.owner)) is distinct from 'held'
       and not jsonb_path_exists(
           c.payments, '$[*] ? (@.status == "initiated" || @.status == "unknown")') as "idle!"
from brigade.carts c
where c.status = 'open' and c.paid = 0
  and c.changed_hour <= floor(extract(epoch from statement_timestamp()) / 3600)::integer - $1
  and (c.changed_hour, c.tenant, c.id) > ($2, $3, $4)
order by c.changed_hour, c.tenant, c.id limit $5
