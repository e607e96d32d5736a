-- Full-text search in posts. The column and its index have one language, which `python -m service reindex-search`
-- changes. That rewrites the table: posts can be neither read nor written meanwhile (minutes for a million).
--
-- The title weighs more than the content. What is indexed is bounded: PostgreSQL refuses a tsvector of 1 MiB, and
-- 20,000 characters never make more than a quarter of that. Ten characters, which PostgreSQL's parser would read as
-- parts of addresses, file names, tags and compound words, separate words. With them the parser may take quadratic
-- time: 16 s for 64 KiB of "a-b_a-b_". So words consist of letters and digits.
create function set_search_language(language regconfig) returns void
language plpgsql
as $function$
begin
    execute format(
        'create or replace function search_language() returns regconfig '
        'language sql immutable parallel safe return %L::regconfig',
        language
    );
    alter table posts drop column if exists search;
    execute format(
        $column$
            alter table posts add column search tsvector generated always as (
                setweight(to_tsvector(%1$L::regconfig, translate(title, '<&~/.-+_@:', '          ')), 'A')
                || setweight(
                    to_tsvector(%1$L::regconfig, translate(left(content, 20000), '<&~/.-+_@:', '          ')), 'B'
                )
            ) stored
        $column$,
        language
    );
    -- A short list of pending entries: merging many entries at once costs less, but every search reads the list, and
    -- the insert that fills it waits until it is merged (about 0.1 s at a million posts).
    create index posts_search_idx on posts using gin (search) with (gin_pending_list_limit = 256);  -- KiB
    comment on column posts.search is 'The words of the title and of the first 20,000 characters of the content.';
end
$function$;

select set_search_language('simple');
