"""SQL for lists of posts, page by page.

Keyset paging: the index finds the start of a page, however far down the list it is.
"""

from typing import Final

from service.database.database import Database, coalesced
from service.queries.posts import posts_of
from service.structs.fields import MAX_ID
from service.structs.posts import PostPage, Sort

SELECT_PAGE: Final = """
select
    id,
    title,
    content,
    user_id,
    rfc3339(date_posted) as date_posted,
    version
from posts
where id > $1
order by id
limit $2
"""

SELECT_PAGE_NEWEST_FIRST: Final = """
select
    id,
    title,
    content,
    user_id,
    rfc3339(date_posted) as date_posted,
    version
from posts
where id <= $1
order by id desc
limit $2
"""

SELECT_PAGE_OF_USER: Final = """
select
    id,
    title,
    content,
    user_id,
    rfc3339(date_posted) as date_posted,
    version
from posts
where
    user_id = $3
    and id > $1
order by id
limit $2
"""

SELECT_PAGE_OF_USER_NEWEST_FIRST: Final = """
select
    id,
    title,
    content,
    user_id,
    rfc3339(date_posted) as date_posted,
    version
from posts
where
    user_id = $3
    and id <= $1
order by id desc
limit $2
"""


@coalesced
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
    # One row more than the page holds shows whether another page follows.
    rows = await db.fetch(statement, bound, limit + 1, *(() if user_id is None else (user_id,)))
    posts, digest = posts_of(rows[:limit])
    return PostPage(posts, digest, after=posts[-1].id if len(rows) > limit else None)
