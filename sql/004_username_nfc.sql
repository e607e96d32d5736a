-- Names are normalised (NFC) from this file on, at registration and at login. A stored name that is not would never be
-- found again. Of several accounts with the same normalised name, the one that has it already keeps it, else the oldest
-- gets it. Each of the others keeps its name, and nobody can log in to it until an operator gives it another one:
-- select id, username from users where username <> normalize(username).
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
