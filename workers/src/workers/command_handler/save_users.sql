insert into brigade.users
    (tenant, id, version, updated_at, parts, parts_at, email, email_folded, profile_id,
     password_hash, status, roles, session_hash, access_hash, access_expires_at, refresh_hash,
     refresh_expires_at, rotated_hash, rotated_by, last_login_at, subscription)
select *
from unnest($1::text[], $2::text[], $3::bigint[], $4::timestamptz[], $5::jsonb[], $6::jsonb[],
            $7::text[], $8::text[], $9::text[], $10::text[], $11::text[], $12::jsonb[],
            $13::text[], $14::text[], $15::timestamptz[], $16::text[], $17::timestamptz[],
            $18::text[], $19::text[], $20::timestamptz[], $21::jsonb[])
on conflict (tenant, id) do update set
    version = excluded.version, updated_at = excluded.updated_at,
    parts = excluded.parts, parts_at = excluded.parts_at,
    email = excluded.email, email_folded = excluded.email_folded,
    profile_id = excluded.profile_id, password_hash = excluded.password_hash,
    status = excluded.status, roles = excluded.roles, session_hash = excluded.session_hash,
    access_hash = excluded.access_hash, access_expires_at = excluded.access_expires_at,
    refresh_hash = excluded.refresh_hash, refresh_expires_at = excluded.refresh_expires_at,
    rotated_hash = excluded.rotated_hash, rotated_by = excluded.rotated_by,
    last_login_at = excluded.last_login_at, subscription = excluded.subscription
