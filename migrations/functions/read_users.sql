-- Reads users for workers that may not read the table: with the rights of its owner, and with '-'
-- in the place of every hash of a password or token. An address may have the hash of an access token
-- beside it; the answer says whether it is that of the user's session, expired or not.
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
                   'roles', u.roles,
                   'session_hash', case when u.session_hash is not null then '-' end,
                   'access_hash', case when u.access_hash is not null then '-' end,
                   'access_expires_at', u.access_expires_at,
                   'refresh_hash', case when u.refresh_hash is not null then '-' end,
                   'refresh_expires_at', u.refresh_expires_at,
                   'last_login_at', u.last_login_at, 'subscription', u.subscription)::text,
               coalesce(u.access_hash = r.access_hash, false)
        from unnest(tenants, ids, access_hashes) with ordinality
             as r (tenant, id, access_hash, place)
        join brigade.users u on (u.tenant, u.id) = (r.tenant, r.id);
end $$;
revoke all on function brigade.read_users(text[], text[], text[]) from public;
