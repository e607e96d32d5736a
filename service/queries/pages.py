"""SQL for lists of posts, page by page.

Keyset paging: the index finds the start of a page, however far down the list it is.

Pages that are requested together share a statement. With a statement each, they would cost about 40 % more here and
20 % more in PostgreSQL. A page that is requested alone costs more than with a simpler statement: about 10 % here and
30 % in PostgreSQL. The pages come one after the other, so PostgreSQL sorts the rows of only one at a time.
"""

from typing import Final

from service.database.database import Database, Rows
from service.queries.posts import posts_of
from service.structs.fields import MAX_ID
from service.structs.posts import PostPage, Sort

# Pages in one statement. With more, the first page would wait too long for the last, and one batch would often hold the
# pages of all clients: the service would then be idle while PostgreSQL reads them.
MAX_PAGES: Final = 12

SELECT_PAGE: Final = """
select
    wanted.number,
    page.id,
    page.title,
    page.content,
    page.user_id,
    page.date_posted,
    page.version
from
    unnest($1::bigint[]) with ordinality as wanted (bound, number),
    lateral (
        select
            posts.id,
            posts.title,
            posts.content,
            posts.user_id,
            rfc3339(posts.date_posted) as date_posted,
            posts.version
        from posts
        where posts.id > wanted.bound
        order by posts.id
        limit $2
    ) as page
order by
    wanted.number,
    page.id
"""

SELECT_PAGE_NEWEST_FIRST: Final = """
select
    wanted.number,
    page.id,
    page.title,
    page.content,
    page.user_id,
    page.date_posted,
    page.version
from
    unnest($1::bigint[]) with ordinality as wanted (bound, number),
    lateral (
        select
            posts.id,
            posts.title,
            posts.content,
            posts.user_id,
            rfc3339(posts.date_posted) as date_posted,
            posts.version
        from posts
        where posts.id <= wanted.bound
        order by posts.id desc
        limit $2
    ) as page
order by
    wanted.number asc,
    page.id desc
"""

SELECT_PAGE_OF_USER: Final = """
select
    wanted.number,
    page.id,
    page.title,
    page.content,
    page.user_id,
    page.date_posted,
    page.version
from
    unnest($1::bigint[], $2::bigint[]) with ordinality as wanted (user_id, bound, number),
    lateral (
        select
            posts.id,
            posts.title,
            posts.content,
            posts.user_id,
            rfc3339(posts.date_posted) as date_posted,
            posts.version
        from posts
        where
            posts.user_id = wanted.user_id
            and posts.id > wanted.bound
        order by posts.id
        limit $3
    ) as page
order by
    wanted.number,
    page.id
"""

SELECT_PAGE_OF_USER_NEWEST_FIRST: Final = """
select
    wanted.number,
    page.id,
    page.title,
    page.content,
    page.user_id,
    page.date_posted,
    page.version
from
    unnest($1::bigint[], $2::bigint[]) with ordinality as wanted (user_id, bound, number),
    lateral (
        select
            posts.id,
            posts.title,
            posts.content,
            posts.user_id,
            rfc3339(posts.date_posted) as date_posted,
            posts.version
        from posts
        where
            posts.user_id = wanted.user_id
            and posts.id <= wanted.bound
        order by posts.id desc
        limit $3
    ) as page
order by
    wanted.number asc,
    page.id desc
"""


async def select_page(
    db: Database, limit: int, after: int | None = None, user_id: int | None = None, sort: Sort = "id"
) -> PostPage:
    """Read up to ``limit`` posts, of one user or of all, that follow the post with the id ``after`` in their order."""
    if sort == "-id":
        bound = MAX_ID if after is None else after - 1
        statement = SELECT_PAGE_NEWEST_FIRST if user_id is None else SELECT_PAGE_OF_USER_NEWEST_FIRST
    else:
        bound = after or 0
        statement = SELECT_PAGE if user_id is None else SELECT_PAGE_OF_USER
    key = bound if user_id is None else (user_id, bound)
    # One row more than the page holds shows whether another page follows.
    return await db.fetch_list_by_key(statement, _page, key, limit + 1, max_keys=MAX_PAGES)


def _page(rows: Rows, limit_plus_one: int) -> PostPage:
    posts, digest = posts_of(rows[: limit_plus_one - 1])
    return PostPage(posts, digest, after=posts[-1].id if len(rows) == limit_plus_one else None)
