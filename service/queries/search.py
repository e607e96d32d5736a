"""Full-text search in posts: the best match first, then the highest id.

The cost of a page is bounded. Matches are ranked in windows: first the newest 1,000 matches, then the next 1,000. Rare
words are found in their index. Of common words PostgreSQL would read all entries, so the newest posts are scanned
instead, at most 50,000 for a window. Such a window may have no match. A sample of the posts decides between the two.
"""

import re
import string
from math import inf
from typing import Final

from service.database.database import Database, coalesced
from service.queries import matches
from service.queries.posts import posts_of
from service.structs.fields import MAX_ID
from service.structs.posts import SearchPage, SearchPosition

RANKED: Final = 1000  # matches of a window
SCANNED: Final = 50_000  # ids of a window, if it is scanned
SCANNED_OF_USER: Final = 5000  # posts of a window, if the posts of a user are scanned
SMALL: Final = 10_000  # a table with no higher id is always scanned
COMMON: Final = 0.02  # the part of a sample in which common words occur

# How many posts of a sample match, and whether the index can find all matches: not those without a word. The words of a
# phrase count wherever they are: the index does not know their order. No row if there are no words, or no posts.
SELECT_SAMPLE: Final = """
with given as materialized (
    select websearch_to_tsquery(search_language(), $1) as words
),

query as materialized (
    select regexp_replace(words::text, '<(-|[0-9]+)>', '&', 'g')::tsquery as words
    from given
),

newest as (
    select id
    from posts
    where id <= $2
    order by id desc
    limit 1
)

select
    newest.id as newest_id,
    querytree(query.words) not in ('', 'T') as is_indexable,
    count(sample.search) filter (where ts_match_vq(sample.search, query.words)) as matches,
    count(sample.search) as posts
from
    query,
    newest,
    generate_series(newest.id, 1, -greatest(newest.id / 16, 1)) as start (id),
    lateral (
        select posts.search
        from posts
        where posts.id <= start.id
        order by posts.id desc
        limit 32
    ) as sample
where numnode(query.words) > 0
group by newest.id, query.words
"""

# The id after as many posts of a user as a window has if it is scanned. No row if the user has fewer.
SELECT_END_OF_SCAN: Final = """
select id
from posts
where
    user_id = $1
    and id <= $2
order by id desc
offset $3
limit 1
"""

# Only ASCII: PostgreSQL decides what the other characters are.
_PART: Final = re.compile(r'(-?)(?:"([^"]*)"|([^\s"]+))', re.ASCII)
_SEPARATORS: Final = string.punctuation + string.whitespace
_TO_SPACES: Final = str.maketrans(_SEPARATORS, " " * len(_SEPARATORS))
_NOTHING: Final = SearchPage([], b"", after=None)


def to_websearch(text: str) -> str:
    """Reduce a query to words, phrases, ``or``, and one ``-`` before what must not occur.

    Words with punctuation inside become phrases: the index has no punctuation. Without this step PostgreSQL fails on
    some texts, for example on 200 dashes ("tsquery stack too small").
    """
    parts = []
    for minus, phrase, word in _PART.findall(text):
        words = [part for part in (phrase or word).translate(_TO_SPACES).split(" ") if part]
        if words:
            quote = '"' if phrase or len(words) > 1 else ""
            negated = minus or word.startswith("-")
            parts.append(f"{'-' if negated else ''}{quote}{' '.join(words)}{quote}")
    return " ".join(parts)


@coalesced
async def search(
    db: Database, text: str, limit: int, user_id: int | None, position: SearchPosition | None
) -> SearchPage:
    """Read up to ``limit`` posts, of one user or of all, that match ``text`` and follow ``position``."""
    words = to_websearch(text)
    if not words:
        return _NOTHING
    start = position or SearchPosition("undecided", MAX_ID)
    if start.method == "undecided":
        window = await _open_window(db, words, user_id, start.newest)
        if window is None:
            return _NOTHING
        start = window
    most = RANKED + 1 if start.rank == inf else 2 * RANKED  # posts may be added to a window, but none may be left out
    arguments = (words, start.oldest, start.newest, most, start.rank, start.id, limit + 1)
    if start.method == "index":
        rows = await db.fetch(matches.SEARCH_INDEX, *arguments, user_id)
    elif user_id is None:
        rows = await db.fetch(matches.SCAN, *arguments)
    else:
        rows = await db.fetch(matches.SCAN_OF_USER, *arguments, user_id)
    posts, digest = posts_of([row[:6] for row in rows[:limit]])
    newest, oldest = rows[0][7:] if rows else (start.newest, start.oldest)
    after = None
    if len(rows) > limit:
        after = SearchPosition(start.method, newest, oldest, rows[limit - 1]["rank"], posts[-1].id)
    elif oldest:
        after = SearchPosition("undecided", oldest)
    return SearchPage(posts, digest, after)


async def _open_window(db: Database, words: str, user_id: int | None, newest: int) -> SearchPosition | None:
    """Decide how the matches of a window are found, and where it ends. Returns ``None`` if it has none."""
    end = 0
    if user_id is not None:
        row = await db.fetch_row(SELECT_END_OF_SCAN, user_id, newest, SCANNED_OF_USER)
        if row is None:
            return SearchPosition("scan", newest)
        end = row["id"]
    sample = await db.fetch_row(SELECT_SAMPLE, words, newest)
    if sample is None:
        return None
    newest_id, is_indexable, hits, sampled = sample
    is_common = not is_indexable or hits >= sampled * COMMON
    if user_id is None:
        is_common = is_common or newest_id <= SMALL
        end = max(newest_id - SCANNED, 0) if newest_id > SMALL else 0
    return SearchPosition("scan", newest, oldest=end) if is_common else SearchPosition("index", newest)
