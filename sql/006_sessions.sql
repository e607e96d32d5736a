-- A login opens a session. A session that has ended is deleted, so a row whose expires_at is in the future is alive.
create table sessions (
    id bigint not null default random(1, 9007199254740991),
    user_id bigint not null,
    generation bigint not null default 1,
    created_at timestamptz not null default now(),
    rotated_at timestamptz not null default now(),
    last_used_at timestamptz not null default now(),
    expires_at timestamptz not null,
    user_agent text not null,
    address text not null,
    constraint sessions_id_pkey primary key (id),
    constraint sessions_user_id_fkey foreign key (user_id) references users(id) on delete cascade,
    constraint sessions_user_agent_length check (char_length(user_agent) <= 200)
);

comment on column sessions.id is
'Random, so that a database restored from a backup does not use an id again, whose old tokens would be valid for another
user. Below 2^53, because JavaScript reads it.';
comment on column sessions.generation is
'The number of the current refresh token. The token itself is an HMAC over id and generation, and is not stored.';
comment on column sessions.rotated_at is 'When the current refresh token replaced the one before.';
comment on column sessions.last_used_at is 'The last login or refresh, which user_agent and address belong to.';

-- The sessions of a user, to list them, and to end them with the user.
create index sessions_user_id_idx on sessions (user_id);
-- Expired sessions, which are deleted a batch at a time.
create index sessions_expires_at_idx on sessions (expires_at);
