-- The keys of POST /posts, and the response to the first request with each. The row is inserted in the transaction that
-- inserts the post, which then sets the last three columns: in a committed row they are not null.
create table idempotency_keys (
    user_id bigint not null,
    key text not null,
    digest bytea not null,
    created_at timestamptz not null default now(),
    post_id bigint,
    etag text,
    body bytea,
    constraint idempotency_keys_user_id_key_pkey primary key (user_id, key),
    constraint idempotency_keys_user_id_fkey foreign key (user_id) references users(id) on delete cascade
);

comment on column idempotency_keys.digest is 'A hash of title and content. Another one means another request.';
comment on column idempotency_keys.post_id is 'No foreign key: the response is sent again after the post is deleted.';

-- Keys that have expired, which are deleted a batch at a time.
create index idempotency_keys_created_at_idx on idempotency_keys (created_at);
