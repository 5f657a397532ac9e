-- For edge: stored outcomes of commands, by the keys that they are stored under. A key of a user has
-- its user and the id that he gave beside it.
create or replace function brigade.read_outcomes(
    era bigint, tenants text[], command_ids text[], users text[], ids_of_users text[])
returns table (place bigint, outcome text)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp as $$
#variable_conflict use_column
begin
    perform brigade.assert_era(era);
    return query
        select requested.place, inbox.outcome::text
        from unnest(tenants, command_ids, users, ids_of_users) with ordinality
             as requested (tenant, command_id, actor, of_user, place)
        cross join lateral (
            select own.outcome from brigade.command_inbox own
            where (own.tenant, own.command_id) = (requested.tenant, requested.command_id)
            union all
            -- What a version has stored that had one name space for all.
            select shared.outcome from brigade.command_inbox shared
            where (shared.tenant, shared.command_id) = (requested.tenant, requested.of_user)
              and shared.actor = requested.actor
              and coalesce(shared.via, 'fleet') = 'fleet'
            limit 1
        ) inbox;
end $$;
revoke all on function brigade.read_outcomes(bigint, text[], text[], text[], text[]) from public;
