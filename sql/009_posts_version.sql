-- What entity tags are made of. A constant default, so no row of the table is rewritten. No index, so that the new row
-- version of a PATCH can stay on its page (HOT).
alter table posts add column version bigint not null default 1;

comment on column posts.version is 'Increased by every statement that changes a column that clients see.';
