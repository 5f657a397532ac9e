-- Removes what is known of persons beside the rows of their users: emails and addresses in the
-- security log, failed logins, and what a release before stored in events and outcomes. It has the
-- rights of its owner, since nobody else may change what was recorded.
create or replace function brigade.erase_users(tenants text[], ids text[], emails text[])
returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    update brigade.security_log l set detail = l.detail - 'email', source = null
    from unnest(tenants, ids) as e (tenant, id)
    where (l.tenant, l.subject) = (e.tenant, 'user.' || e.id);
    update brigade.security_log l set detail = l.detail - 'email', source = null
    from unnest(tenants, emails) as e (tenant, email)
    where (l.tenant, l.detail ->> 'email') = (e.tenant, e.email) and l.detail ? 'email';
    update brigade.security_log l set source = null
    from unnest(tenants, ids) as e (tenant, id)
    where (l.tenant, l.actor) = (e.tenant, e.id) and l.source is not null;
    delete from brigade.login_failures f
    using unnest(tenants, ids, emails) as e (tenant, id, email)
    where f.tenant = e.tenant
      and (f.key in (e.email, '#' || e.id)
           or starts_with(f.key, e.email || ' ') or starts_with(f.key, '#' || e.id || ' '));
    update brigade.events v
    set payload = (v.payload::jsonb #- '{data,email}' #- '{data,source}')::json
    from unnest(tenants, ids) as e (tenant, id)
    where (v.tenant, v.aggregate, v.id) = (e.tenant, 'user', e.id)
      and v.type in ('registered', 'profile_updated', 'logged_in');
    update brigade.command_inbox i
    set outcome = (i.outcome::jsonb #- '{data,auth,email}')::json
    from unnest(tenants, ids) as e (tenant, id)
    where (i.tenant, split_part(i.subject, '.', 4)) = (e.tenant, e.id)
      and split_part(i.subject, '.', 3) = 'user';
end $$;
revoke all on function brigade.erase_users(text[], text[], text[]) from public;
