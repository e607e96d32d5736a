-- The key that signs the access tokens, as the service that started last had it. A service with another key logs a
-- warning at start: it refuses the tokens of the others.
create table signing_key (
    is_only_row boolean not null default true,
    fingerprint text not null,
    changed_at timestamptz,
    constraint signing_key_is_only_row_pkey primary key (is_only_row),
    constraint signing_key_is_only_row_true check (is_only_row)
);

comment on column signing_key.fingerprint is 'An HMAC with the key, from which the key cannot be computed.';
comment on column signing_key.changed_at is 'Null until the first change of the key.';
