"""SQL for the pages of a search.

The parameters: the words; the window, from an exclusive id to an inclusive one; the most matches to rank; rank and id
of the last row of the page before; the size of the page; the user. If there are as many matches as are ranked at most,
the oldest of them belongs to the next window.
"""

from typing import Final

# The matches of rare words, of one user or of all. Nothing is known about the words of a generic plan. The additions of
# 0 keep the planner from the other indexes.
SEARCH_INDEX: Final = """
with query as materialized (
    select websearch_to_tsquery(search_language(), $1) as words
),

matches as materialized (
    select
        found.id,
        ts_rank(found.search, query.words) as rank
    from query
    cross join lateral (
        select
            posts.id,
            posts.search
        from posts
        where
            posts.search @@ query.words
            and posts.id + 0 > $2
            and posts.id + 0 <= $3
            and ($8::bigint is null or posts.user_id + 0 = $8)
        order by posts.id + 0 desc
        limit $4
    ) as found
),

bounds as materialized (
    select
        max(id) as newest_id,
        case when count(id) = $4 then min(id) else $2 end as oldest_id
    from matches
),

page as (
    select
        matches.id,
        matches.rank,
        bounds.newest_id,
        bounds.oldest_id
    from matches
    cross join bounds
    where
        matches.id > bounds.oldest_id
        and (matches.rank, matches.id) < ($5::real, $6::bigint)
    order by matches.rank desc, matches.id desc
    limit $7
)

select
    posts.id,
    posts.title,
    posts.content,
    posts.user_id,
    rfc3339(posts.date_posted) as date_posted,
    posts.version,
    page.rank,
    page.newest_id,
    page.oldest_id
from page
inner join posts on page.id = posts.id
order by page.rank desc, page.id desc
"""

# The matches of common words, from the newest post on. ``ts_match_vq`` is ``@@`` without the index.
SCAN: Final = """
with query as materialized (
    select websearch_to_tsquery(search_language(), $1) as words
),

matches as materialized (
    select
        found.id,
        ts_rank(found.search, query.words) as rank
    from query
    cross join lateral (
        select
            posts.id,
            posts.search
        from posts
        where
            ts_match_vq(posts.search, query.words)
            and posts.id > $2
            and posts.id <= $3
        order by posts.id desc
        limit $4
    ) as found
),

bounds as materialized (
    select
        max(id) as newest_id,
        case when count(id) = $4 then min(id) else $2 end as oldest_id
    from matches
),

page as (
    select
        matches.id,
        matches.rank,
        bounds.newest_id,
        bounds.oldest_id
    from matches
    cross join bounds
    where
        matches.id > bounds.oldest_id
        and (matches.rank, matches.id) < ($5::real, $6::bigint)
    order by matches.rank desc, matches.id desc
    limit $7
)

select
    posts.id,
    posts.title,
    posts.content,
    posts.user_id,
    rfc3339(posts.date_posted) as date_posted,
    posts.version,
    page.rank,
    page.newest_id,
    page.oldest_id
from page
inner join posts on page.id = posts.id
order by page.rank desc, page.id desc
"""

SCAN_OF_USER: Final = """
with query as materialized (
    select websearch_to_tsquery(search_language(), $1) as words
),

matches as materialized (
    select
        found.id,
        ts_rank(found.search, query.words) as rank
    from query
    cross join lateral (
        select
            posts.id,
            posts.search
        from posts
        where
            ts_match_vq(posts.search, query.words)
            and posts.id > $2
            and posts.id <= $3
            and posts.user_id = $8
        order by posts.id desc
        limit $4
    ) as found
),

bounds as materialized (
    select
        max(id) as newest_id,
        case when count(id) = $4 then min(id) else $2 end as oldest_id
    from matches
),

page as (
    select
        matches.id,
        matches.rank,
        bounds.newest_id,
        bounds.oldest_id
    from matches
    cross join bounds
    where
        matches.id > bounds.oldest_id
        and (matches.rank, matches.id) < ($5::real, $6::bigint)
    order by matches.rank desc, matches.id desc
    limit $7
)

select
    posts.id,
    posts.title,
    posts.content,
    posts.user_id,
    rfc3339(posts.date_posted) as date_posted,
    posts.version,
    page.rank,
    page.newest_id,
    page.oldest_id
from page
inner join posts on page.id = posts.id
order by page.rank desc, page.id desc
"""
