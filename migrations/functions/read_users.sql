-- Reads users for workers that may not read the table: with the rights of its owner, and without any
-- hash of a password or token: in its place stands '-', and of what names a session the first 16
-- digits. An address may have the hash of an access token beside it. The answer then says whether
-- it is that of a session and has not expired: in has_token, and by token_session and
-- token_expires_at of the body.
create or replace function brigade.read_users(tenants text[], ids text[], access_hashes text[])
returns table (place bigint, body text, has_token boolean)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
begin
    return query
        select r.place,
               json_build_object(
                   'tenant', u.tenant, 'id', u.id, 'version', u.version,
                   'updated_at', u.updated_at, 'parts', u.parts, 'parts_at', u.parts_at,
                   'email', u.email, 'email_folded', u.email_folded,
                   'profile_id', u.profile_id, 'password_hash', '-', 'status', u.status,
                   'account_status', u.account_status, 'reset', null,
                   'roles', u.roles,
                   'sessions', coalesce(s.shown, '[]'),
                   'session_hash', left(u.session_hash, 16),
                   'access_hash', case when u.access_hash is not null then '-' end,
                   'access_expires_at', u.access_expires_at,
                   'refresh_hash', case when u.refresh_hash is not null then '-' end,
                   'refresh_expires_at', u.refresh_expires_at,
                   'last_login_at', u.last_login_at, 'subscription', u.subscription,
                   'token_session', t.session, 'token_expires_at', t.expires_at)::text,
               t.session is not null
        from unnest(tenants, ids, access_hashes) with ordinality
             as r (tenant, id, access_hash, place)
        join brigade.users u on (u.tenant, u.id) = (r.tenant, r.id)
        left join lateral (
            select jsonb_agg(
                jsonb_build_object(
                    'hash', left(e.session ->> 'hash', 16), 'name', e.session -> 'name',
                    'began_at', e.session -> 'began_at', 'begun_by', null,
                    'used_at', e.session -> 'used_at',
                    'refresh_expires_at', e.session -> 'refresh_expires_at',
                    'access_hash', '-', 'access_expires_at', e.session -> 'access_expires_at',
                    'refresh_hash', '-', 'by', null, 'raced', '[]'::jsonb, 'rotated', null)
                order by e.nth) as shown
            from jsonb_array_elements(u.sessions) with ordinality as e (session, nth)) s on true
        left join lateral (
            select left(i.session_hash, 16) as session, i.expires_at
            from (select u.session_hash, u.access_hash, u.access_expires_at
                  union all
                  select e.session ->> 'hash', g.issued ->> 'access_hash',
                         (g.issued ->> 'access_expires_at')::timestamptz
                  from jsonb_array_elements(u.sessions) with ordinality as e (session, nth)
                  cross join lateral (
                      -- Of the last one the columns say it.
                      select e.session where e.nth < jsonb_array_length(u.sessions)
                      union all
                      select raced from jsonb_array_elements(e.session -> 'raced') as raced
                      where e.nth < jsonb_array_length(u.sessions)
                         -- A release before has changed it where they say something else.
                         or (e.session ->> 'hash', e.session ->> 'refresh_hash')
                            = (u.session_hash, u.refresh_hash))
                      as g (issued))
                 as i (session_hash, access_hash, expires_at)
            where i.access_hash = r.access_hash and i.expires_at > clock_timestamp()
              -- A release before that has ended its session has ended all of them.
              and u.session_hash is not null
              -- A release before lets everybody log in.
              and u.account_status = 'active'
            limit 1) t on true;
end $$;
revoke all on function brigade.read_users(text[], text[], text[]) from public;
