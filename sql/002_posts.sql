create table posts (
    id bigint generated always as identity,
    title text not null,
    content text not null,
    user_id bigint not null,
    date_posted timestamptz not null default now(),
    constraint posts_id_pkey primary key (id),
    constraint posts_user_id_fkey foreign key (user_id) references users(id) on delete cascade,
    constraint posts_title_length check (char_length(title) between 1 and 100),
    constraint posts_content_length check (char_length(content) >= 1)
);

-- A user's posts by id, page by page: GET /users/{id} and GET /posts?user_id=. Finds the posts that go with their
-- user as well. No column that PATCH changes is indexed, so its new row version can stay on its page (HOT).
create index posts_user_id_id_idx on posts (user_id, id);
