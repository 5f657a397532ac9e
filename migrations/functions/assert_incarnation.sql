-- Fails unless the server still has this name; see server_incarnation.
create or replace function brigade.assert_incarnation(name text)
returns boolean
language plpgsql stable as $$
begin
    if name is distinct from brigade.server_incarnation() then
        raise exception 'this server was recovered since, or is another one'
            using errcode = 'object_not_in_prerequisite_state';
    end if;
    return true;
end $$;
