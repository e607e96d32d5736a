-- Failed logins, counted for an account name, for a client address, and for a name from an address that is known to it.
-- Also the registrations from an address. A subject is an HMAC: people type passwords into the field of the name.
create table login_failures (
    subject bytea not null,
    failed_at timestamptz[] not null,
    last_failed_at timestamptz not null,
    constraint login_failures_subject_pkey primary key (subject)
);

comment on column login_failures.failed_at is 'The newest first, and no more of them than a limit needs.';

-- Rows whose last failure no longer counts, which are deleted a batch at a time.
create index login_failures_last_failed_at_idx on login_failures (last_failed_at);

-- The addresses that a user has logged in from. Failures from them count by themselves, so that nobody elsewhere can
-- lock the user out.
create table known_addresses (
    user_id bigint not null,
    address text not null,
    last_login_at timestamptz not null default now(),
    constraint known_addresses_user_id_address_pkey primary key (user_id, address),
    constraint known_addresses_user_id_fkey foreign key (user_id) references users(id) on delete cascade
);

comment on column known_addresses.address is 'An IPv4 address, or the /64 network of an IPv6 address.';

-- Addresses that are no longer known, which are deleted a batch at a time.
create index known_addresses_last_login_at_idx on known_addresses (last_login_at);
