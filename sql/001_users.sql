create table users (
    id bigint generated always as identity,
    username text not null,
    email text not null,
    password_hash text not null,
    constraint users_id_pkey primary key (id),
    constraint users_username_key unique (username),
    constraint users_username_length check (char_length(username) between 1 and 50),
    constraint users_email_key unique (email),
    constraint users_email_length check (char_length(email) between 1 and 120)
);

comment on column users.email is 'Its domain is in lower case, so the unique constraint sees one mailbox once.';
comment on column users.password_hash is 'Argon2id in the PHC string format, which carries its own settings.';
