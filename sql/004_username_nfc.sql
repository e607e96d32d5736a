-- From now on names are normalised (NFC) at registration and at login, so a stored name that is not normalised would
-- never be found. Of several accounts with the same normalised name, the one that has it already keeps it, else the
-- oldest gets it. The others, and those whose normalised name would be too long, keep their names, and nobody can log
-- in to them until an operator renames them: select id, username from users where username <> normalize(username).
update users
set username = normalize(username)
where
    username <> normalize(username)
    and char_length(normalize(username)) <= 50
    and not exists (
        select
        from users as other
        where
            normalize(other.username) = normalize(users.username)
            and (other.username = normalize(users.username) or other.id < users.id)
    );
