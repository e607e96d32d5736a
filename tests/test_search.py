"""Full-text search in posts: its language, its order, its bounds, and the texts that it must survive."""

import string

import asyncpg
import httpx
import msgspec
import pytest
from hypothesis import HealthCheck, example, given, settings, strategies

from service.app import create_app
from service.queries import matches, posts, search
from service.security import positions
from service.settings import Settings
from tests.conftest import Serve
from tests.people import Person, assert_problem, next_page, pointers
from tests.recorder import Recorder
from tests.tables import fill, principal_of

# Every other character of these means something to PostgreSQL's parsers.
HOSTILE = strategies.text(
    strategies.one_of(
        strategies.sampled_from(string.punctuation + " -\"'ab1\t\n"),
        strategies.characters(exclude_characters="\0", exclude_categories=["Cs"]),
    ),
    min_size=1,
    max_size=200,
)


async def titles(client: httpx.AsyncClient, query: str, **parameters: int) -> list[str]:
    response = await client.get("/posts", params={"q": query, **parameters})
    assert response.status_code == 200, response.text
    return [post["title"] for post in response.json()]


async def test_words_phrases_alternatives_and_exclusions_are_found(client: httpx.AsyncClient, alice: Person) -> None:
    await alice.publish("apples", "Red apple, green pear")
    await alice.publish("pears", "Green PEAR, then an apple")
    await alice.publish("node", "node.js is at https://nodejs.example/docs-dir, <b>bold</b>")

    assert {*await titles(client, "apple pear")} == {"apples", "pears"}
    assert await titles(client, '"green pear" -then') == ["apples"]
    assert {*await titles(client, "then or bold")} == {"node", "pears"}
    assert await titles(client, "nodejs") == ["node"]
    assert await titles(client, "node.js") == ["node"]
    assert await titles(client, "docs-dir") == ["node"]
    assert await titles(client, "dir-docs") == []
    assert await titles(client, "-apple") == ["node"]
    assert await titles(client, "absent") == []
    assert await titles(client, "...") == []


async def test_the_best_match_comes_first_then_the_highest_id(
    client: httpx.AsyncClient, alice: Person, mallory: Person
) -> None:
    for author, title, content in [
        (alice, "1 once", "apple"),
        (mallory, "2 apple", "in the title"),
        (alice, "3 once", "apple"),
        (alice, "4 twice", "apple apple"),
        (mallory, "5 nothing", "pear"),
        (alice, "6 apple", "in the title"),
    ]:
        await author.publish(title, content)

    assert await titles(client, "apple") == ["6 apple", "2 apple", "4 twice", "3 once", "1 once"]
    assert await titles(client, "apple", user_id=alice.id) == ["6 apple", "4 twice", "3 once", "1 once"]
    assert await titles(client, "apple", limit=2) == ["6 apple", "2 apple"]


async def test_a_changed_post_is_found_by_its_new_words_only(client: httpx.AsyncClient, alice: Person) -> None:
    post = await alice.publish("Old", "stays")

    await client.patch(f"/posts/{post['id']}", json={"title": "New"}, headers=alice.headers)

    assert await titles(client, "old") == []
    assert await titles(client, "new stays") == ["New"]


async def test_a_position_is_valid_only_for_its_query(
    client: httpx.AsyncClient, alice: Person, db: asyncpg.Connection
) -> None:
    await fill(db, alice.id, 5)
    first = await client.get("/posts?q=text&limit=2")
    link = next_page(first)
    assert link
    after = link.params["after"]
    assert len(after) == positions.LENGTH
    assert link.params["q"] == "text"

    assert len((await client.get(link)).json()) == 2
    for query in (
        {"q": "other", "after": after},
        {"q": "text", "after": after, "user_id": str(alice.id)},
        {"q": "text", "after": ("B" if after[0] == "A" else "A") + after[1:]},
        {"q": "text", "after": after[:-1]},
        {"q": "text", "after": after + "A"},
        {"q": "text", "after": "5"},
        {"q": "text", "after": "A" * 10_000},
        {"after": after},
    ):
        response = await client.get("/posts", params=query)
        assert_problem(response, 422, "invalid_fields")
        assert pointers(response) == ["/after"]


async def test_a_forged_position_costs_no_statement(settings: Settings, serve: Serve) -> None:
    app = create_app(settings)
    recorder = Recorder(settings.database_url)
    app.state["db"] = recorder
    address = await serve(app)
    async with recorder.lifespan(), httpx.AsyncClient(base_url=address) as client:
        response = await client.get("/posts", params={"q": "text", "after": "A" * positions.LENGTH, "limit": 0})
        nothing = await client.get("/posts", params={"q": "- ... -"})

    assert pointers(response) == ["/limit", "/after"]
    assert nothing.json() == []
    assert recorder.sent == []


async def test_a_position_is_valid_in_a_process_with_the_next_key(
    client: httpx.AsyncClient, alice: Person, db: asyncpg.Connection, settings: Settings, serve: Serve
) -> None:
    await fill(db, alice.id, 3)
    link = next_page(await client.get("/posts?q=text&limit=2"))
    assert link
    rotated = msgspec.structs.replace(settings, secret_key=b"n" * 32, secret_key_previous=settings.secret_key)
    without = msgspec.structs.replace(settings, secret_key=b"n" * 32)

    async with httpx.AsyncClient() as other:
        valid = await other.get(link.copy_with(port=httpx.URL(await serve(create_app(rotated))).port))
        invalid = await other.get(link.copy_with(port=httpx.URL(await serve(create_app(without))).port))

    assert [post["title"] for post in valid.json()] == ["Post 1"]
    assert pointers(invalid) == ["/after"]


@pytest.mark.parametrize("dashes", ["-" * 200, "- " * 100, '-"' * 100, "-(" * 100, '-"" ' * 50, "!" * 200, "a -" * 66])
async def test_no_query_is_an_error(client: httpx.AsyncClient, alice: Person, dashes: str) -> None:
    await alice.publish("A title", "b")

    assert await titles(client, dashes) in ([], ["A title"])


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=HOSTILE)
@example(text="-" * 200)
async def test_postgresql_parses_every_query(db: asyncpg.Connection, text: str) -> None:
    words = search.to_websearch(text)

    parsed = await db.fetchval("select numnode(websearch_to_tsquery(search_language(), $1))", words)

    assert parsed <= 2 * len(text)
    assert len(words) <= 2 * len(text)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(word=HOSTILE.filter(lambda text: search.to_websearch(text.replace('"', " ").replace("-", " "))))
@example(word="0\xa0")
async def test_a_post_is_found_by_its_own_words(db: asyncpg.Connection, word: str) -> None:
    """The characters that separate words do so in a post as in a query."""
    words = search.to_websearch(f'"{word.replace(chr(34), " ")}"')
    principal = await db.fetchval("select id from users limit 1") or (await principal_of(db, "alice")).user_id
    post_id = await db.fetchval(
        "insert into posts (title, content, user_id) values ('x', $1, $2) returning id", word, principal
    )

    found = await db.fetchval(
        "select numnode(words) = 0 or search @@ words from posts, websearch_to_tsquery('simple', $1) as words "
        "where id = $2",
        words,
        post_id,
    )

    assert found, (word, words)


@pytest.mark.parametrize(
    "content",
    [
        " ".join(chr(0x20000 + number) for number in range(42_000)),  # distinct words of four bytes
        " ".join(chr(0x4E00 + number) for number in range(20_000)),
        " ".join(f"{number:x}" for number in range(200_000)),
        "-".join(chr(0x20000 + number) for number in range(42_000)),
        "a-b_" * 250_000,
        "<!--" * 250_000,
        "<a '" * 250_000,
        "a@b.c/" * 170_000,
        "1e-" * 300_000,
        "a " * 500_000,
        "\u0130" * 500_000,
        "\U0010ffff" * 250_000,
        "x" * 1_000_000,
    ],
    ids=range(13),
)
async def test_every_legal_content_can_be_posted(client: httpx.AsyncClient, alice: Person, content: str) -> None:
    content = content.encode()[: 1024 * 1024 - 100].decode(errors="ignore")

    post = await alice.publish("Found", content)

    assert (await alice.read(post["id"]))["content"] == content
    assert await titles(client, "found") == ["Found"]


async def test_the_index_of_the_largest_content_is_far_below_its_limit(db: asyncpg.Connection) -> None:
    user_id = (await principal_of(db, "alice")).user_id
    # The most bytes per character: words of one letter of four bytes, or of one of three and two bytes of padding.
    for letter, count in ((0x20000, 10_000), (0x4E00, 10_000)):
        content = " ".join(chr(letter + number) for number in range(count))
        size = await db.fetchval(
            "insert into posts (title, content, user_id) values ($1, $2, $3) returning length(search::text)",
            "t" * 100,
            content,
            user_id,
        )
        assert size > 10_000
    assert (
        await db.fetchval("select max(pg_column_size(to_tsvector('simple', left(content, 20000)))) from posts") < 2**18
    )


async def test_common_words_are_scanned_and_rare_ones_are_looked_up(db: asyncpg.Connection, database_url: str) -> None:
    user_id = (await principal_of(db, "alice")).user_id
    await db.execute("select setval(pg_get_serial_sequence('posts', 'id'), $1)", search.SMALL)
    await fill(db, user_id, 2000)
    await db.execute("update posts set content = 'rare' where id % 1000 = 0")
    recorder = Recorder(database_url)
    async with recorder.lifespan():
        rare = await search.search(recorder, "rare", 50, None, None)
        common = await search.search(recorder, "text", 50, None, None)
        negative = await search.search(recorder, "-rare", 50, None, None)

    assert len(rare.posts) == 2
    assert rare.after is None
    assert common.after
    assert common.after.method == "scan"
    assert negative.after
    assert [sent for sent, _ in recorder.sent if sent != search.SELECT_SAMPLE] == [
        matches.SEARCH_INDEX,
        matches.SCAN,
        matches.SCAN,
    ]


# Of the connection, since it last reported its counts.
HOT_UPDATES = "select pg_stat_get_xact_tuples_hot_updated('posts'::regclass)"


@pytest.mark.parametrize(
    ("title", "content", "is_hot"),
    [
        (None, None, True),
        ("A title", None, True),
        ("A title", "Text", True),
        ("Another", None, False),
        (None, "T", False),
    ],
)
async def test_an_update_touches_an_index_only_if_it_changes_the_words(
    db: asyncpg.Connection,
    title: str | None,
    content: str | None,
    is_hot: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    principal = await principal_of(db, "alice")
    post_id = await db.fetchval(posts.INSERT, "A title", "Text", principal.session_id)
    update = await db.prepare(posts.UPDATE)
    others = [None] * (len(update.get_parameters()) - 4)

    async with db.transaction():
        before = await db.fetchval(HOT_UPDATES)
        assert await update.fetch(post_id, principal.session_id, title, content, *others)
        hot = await db.fetchval(HOT_UPDATES) - before

    assert hot == is_hot


async def test_a_word_of_json_is_a_word(client: httpx.AsyncClient, alice: Person) -> None:
    await alice.publish("null", "true")

    assert await titles(client, "null") == ["null"]
    assert await titles(client, "true") == ["null"]
