"""Entity tags, If-Match and If-None-Match (RFC 9110, sections 8.8.3 and 13)."""

import asyncio

import asyncpg
import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.errors import InvalidToken, PostChanged
from service.http import preconditions
from service.http.preconditions import post_tag, version_condition
from service.http.responses import encode
from service.queries import posts
from service.structs.fields import Timestamp
from service.structs.posts import Post, PostCreate, PostUpdate, StoredPost, VersionCondition
from tests.people import Json, Person, Tokens, assert_problem
from tests.recorder import Recorder
from tests.tables import all_rows, principal_of
from tests.waiting import wait_for_blocked_session

CHANGED = (412, "post_changed", "The post has changed")


async def tag_of(client: httpx.AsyncClient, post: Json) -> str:
    response = await client.get(f"/posts/{post['id']}")
    return response.headers["etag"]


async def test_reads_and_writes_return_the_same_strong_tag(client: httpx.AsyncClient, alice: Person) -> None:
    created = await client.post("/posts", json={"title": "T", "content": "C"}, headers=alice.headers)
    path = f"/posts/{created.json()['id']}"
    read = await client.get(path)
    head = await client.head(path)
    changed = await client.patch(path, json={"title": "New"}, headers=alice.headers)
    again = await client.get(path)

    tags = [response.headers["etag"] for response in (created, read, head, changed, again)]

    assert tags[0] == tags[1] == tags[2] != tags[3] == tags[4]
    assert all(tag.startswith('"') and tag.endswith('"') for tag in tags)
    assert not any("last-modified" in response.headers for response in (created, read, head, changed, again))
    assert set(again.json()) == {"id", "title", "content", "user_id", "date_posted"}


def test_a_change_of_the_format_changes_the_tag(monkeypatch: pytest.MonkeyPatch) -> None:
    stored = StoredPost(Post(1, "T", "C", 1, Timestamp("2026-11-22T12:25:55.978298Z")), 3)
    tag = post_tag(stored)

    monkeypatch.setattr(preconditions, "FORMAT", preconditions.FORMAT + 1)

    assert post_tag(stored) != tag
    scope = {"headers": [(b"if-match", tag.encode())]}
    assert not version_condition(scope, 1).allows(3)  # type: ignore[arg-type]


def test_the_format_has_the_number_of_its_representation() -> None:
    """If this fails, increase ``FORMAT``, and then change this text."""
    stored = Post(1, "T", "C", 1, Timestamp("2026-11-22T12:25:55.978298Z"))

    assert (preconditions.FORMAT, encode(stored)) == (
        1,
        b'{"id":1,"title":"T","content":"C","user_id":1,"date_posted":"2026-11-22T12:25:55.978298Z"}',
    )


@pytest.mark.parametrize(
    ("value", "status"),
    [
        ("{tag}", 304),
        ("W/{tag}", 304),
        ("*", 304),
        ('"x" , W/{tag}', 304),
        ('"a,b", {tag}', 304),
        (",, {tag},", 304),
        ('"x"', 200),
        ('"x", W/"y,{unquoted}"', 200),
        ("", 200),
        (", ,", 200),
    ],
)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_if_none_match_is_compared_weakly(
    client: httpx.AsyncClient, alice: Person, value: str, status: int, method: str
) -> None:
    post = await alice.publish()
    tag = await tag_of(client, post)
    sent = value.format(tag=tag, unquoted=tag.strip('"'))

    response = await client.request(method, f"/posts/{post['id']}", headers={"If-None-Match": sent})

    assert response.status_code == status
    assert response.headers["etag"] == tag
    assert response.headers["cache-control"] == "no-cache"
    if status == 304:
        assert response.content == b""
        assert not {"content-type", "content-length", "transfer-encoding"} & set(response.headers)


@pytest.mark.parametrize(
    ("value", "status"),
    [
        ("{tag}", 200),
        ("*", 200),
        ('"x", {tag}', 200),
        ("W/{tag}", 412),
        ('"x"', 412),
        ("", 412),
        ('"1-1-1x"', 412),
        ('"99999999999999999999-99999999999999999999-1"', 412),
    ],
)
@pytest.mark.parametrize("method", ["GET", "HEAD", "PATCH", "DELETE"])
async def test_if_match_is_compared_strongly(
    client: httpx.AsyncClient, alice: Person, db: asyncpg.Connection, value: str, status: int, method: str
) -> None:
    post = await alice.publish()
    tag = await tag_of(client, post)
    before = await all_rows(db)
    headers = {**alice.headers, "If-Match": value.format(tag=tag)}
    body = {"title": "New"} if method == "PATCH" else None

    response = await client.request(method, f"/posts/{post['id']}", headers=headers, json=body)

    assert response.status_code == (204 if (method, status) == ("DELETE", 200) else status)
    if status == 412:
        assert await all_rows(db) == before
        if method != "HEAD":
            assert_problem(response, *CHANGED)


@pytest.mark.parametrize("value", ["{tag}", "W/{tag}", "*", '"x", {tag}'])
@pytest.mark.parametrize(("method", "body"), [("PATCH", {"title": "New"}), ("PATCH", {}), ("DELETE", None)])
async def test_a_write_is_refused_by_a_matching_if_none_match(
    client: httpx.AsyncClient, alice: Person, db: asyncpg.Connection, value: str, method: str, body: Json | None
) -> None:
    post = await alice.publish()
    before = await all_rows(db)
    headers = {**alice.headers, "If-None-Match": value.format(tag=await tag_of(client, post))}

    response = await client.request(method, f"/posts/{post['id']}", headers=headers, json=body)

    assert_problem(response, *CHANGED)
    assert await all_rows(db) == before
    other = await client.request(
        method, f"/posts/{post['id']}", headers={**alice.headers, "If-None-Match": '"x"'}, json=body
    )
    assert other.status_code in {200, 204}


MALFORMED = [
    "x",
    '"unclosed',
    '"a" "b"',
    '*, "a"',
    'w/"a"',
    'W/ "a"',
    "W/",
    '"a";q=1',
    '"a b"',
    "'a'",
    "* *",
]


@pytest.mark.parametrize("value", MALFORMED)
@pytest.mark.parametrize("name", ["If-Match", "If-None-Match"])
async def test_a_malformed_header_is_a_bad_request(
    client: httpx.AsyncClient, alice: Person, db: asyncpg.Connection, name: str, value: str
) -> None:
    post = await alice.publish()
    before = await all_rows(db)
    headers = {**alice.headers, name: value}

    for response in [
        await client.get(f"/posts/{post['id']}", headers=headers),
        await client.patch(f"/posts/{post['id']}", headers=headers, json={"title": "New"}),
        await client.patch(f"/posts/{post['id']}", headers=headers, json={}),
        await client.delete(f"/posts/{post['id']}", headers=headers),
    ]:
        assert_problem(response, 400, "malformed_precondition")
    assert await all_rows(db) == before


async def test_lines_of_a_header_are_one_list(client: httpx.AsyncClient, alice: Person) -> None:
    post = await alice.publish()
    tag = await tag_of(client, post)
    path = f"/posts/{post['id']}"

    for values in ([tag, '"x"'], ['"x"', tag]):
        lines = [("If-None-Match", value) for value in values]
        assert (await client.get(path, headers=lines)).status_code == 304
        lines = [*alice.headers.items(), *(("If-Match", value) for value in values)]
        assert (await client.patch(path, headers=lines, json={})).status_code == 200
    malformed = await client.get(path, headers=[("If-None-Match", "*"), ("If-None-Match", tag)])
    assert_problem(malformed, 400, "malformed_precondition")


async def test_if_match_is_evaluated_before_if_none_match(client: httpx.AsyncClient, alice: Person) -> None:
    post = await alice.publish()
    tag = await tag_of(client, post)

    response = await client.get(f"/posts/{post['id']}", headers={"If-Match": '"x"', "If-None-Match": tag})
    both = await client.get(f"/posts/{post['id']}", headers={"If-Match": tag, "If-None-Match": tag})

    assert_problem(response, *CHANGED)
    assert both.status_code == 304


async def test_a_change_without_fields_writes_nothing(
    client: httpx.AsyncClient, alice: Person, db: asyncpg.Connection
) -> None:
    post = await alice.publish()
    select = "select ctid, xmin, version from posts"
    before = await db.fetch(select)

    response = await client.patch(f"/posts/{post['id']}", json={}, headers=alice.headers)

    assert (response.status_code, response.json()) == (200, post)
    assert response.headers["etag"] == await tag_of(client, post)
    assert await db.fetch(select) == before


async def test_the_precondition_comes_last(client: httpx.AsyncClient, alice: Person, mallory: Person) -> None:
    post = await alice.publish()
    path = f"/posts/{post['id']}"
    for condition in ({"If-Match": '"x"'}, {"If-None-Match": "*"}, {"If-Match": "malformed"}):
        hers, others = {**alice.headers, **condition}, {**mallory.headers, **condition}
        for method, body in (("PATCH", {"title": "New"}), ("DELETE", None)):
            for target, headers, status, code in [
                (path, condition, 401, "not_authenticated"),
                ("/posts/999", hers, 404, "post_not_found"),
                (path, others, 403, "not_owner"),
            ]:
                assert_problem(await client.request(method, target, headers=headers, json=body), status, code)
        assert_problem(await client.patch(path, json={"title": ""}, headers=hers), 422, "invalid_fields")
        assert_problem(await client.get("/posts/999", headers=condition), 404, "post_not_found")


async def test_of_two_editors_with_one_tag_one_succeeds(client: httpx.AsyncClient, alice: Person) -> None:
    post = await alice.publish()
    other = await alice.publish()
    path = f"/posts/{post['id']}"
    for number in range(100):
        tag = await tag_of(client, post)
        headers = {**alice.headers, "If-Match": tag}

        responses = await asyncio.gather(
            client.patch(path, json={"title": f"a{number}"}, headers=headers),
            client.patch(path, json={"title": f"b{number}"}, headers=headers),
            client.patch(f"/posts/{other['id']}", json={"title": f"c{number}"}, headers=alice.headers),
        )

        assert sorted(response.status_code for response in responses[:2]) == [200, 412]
        assert responses[2].status_code == 200
        [winner] = [response for response in responses[:2] if response.status_code == 200]
        assert await alice.read(post["id"]) == winner.json()
        assert await tag_of(client, post) == winner.headers["etag"] != tag


async def test_an_edit_and_a_deletion_with_one_tag_do_not_both_succeed(
    client: httpx.AsyncClient, alice: Person
) -> None:
    outcomes = set()
    for number in range(100):
        post = await alice.publish()
        path = f"/posts/{post['id']}"
        headers = {**alice.headers, "If-Match": await tag_of(client, post)}
        calls = [
            client.patch(path, json={"title": "New"}, headers=headers),
            client.delete(path, headers=headers),
        ]
        if number % 2:
            calls.reverse()

        responses = await asyncio.gather(*calls)

        statuses = {response.request.method: response.status_code for response in responses}
        outcomes.add((statuses["PATCH"], statuses["DELETE"]))
    assert outcomes <= {(200, 412), (404, 204)}


async def test_each_row_of_a_batch_has_its_own_condition(url_for_db: str, db: asyncpg.Connection) -> None:
    recorder = Recorder(url_for_db)
    principal = await principal_of(db, "alice")
    async with recorder.lifespan():
        made = [await posts.insert(recorder, principal, PostCreate(str(n), "C")) for n in range(8)]
        conditions = [
            VersionCondition(),
            VersionCondition(frozenset({1})),
            VersionCondition(frozenset({2, 1, 2**63 - 1})),
            VersionCondition(frozenset({2, 3})),
            VersionCondition(frozenset()),
            VersionCondition(None, frozenset({1})),
            VersionCondition(None, frozenset({2, 3})),
            VersionCondition(frozenset({1, 2}), frozenset({1})),
        ]
        recorder.sent.clear()

        results = await asyncio.gather(
            *(
                posts.update(recorder, one.post.id, principal, PostUpdate(title="New"), condition)
                for one, condition in zip(made, conditions, strict=True)
            ),
            return_exceptions=True,
        )

        allowed = [condition.allows(1) for condition in conditions]
        assert allowed == [True, True, True, False, False, False, True, False]
        assert [isinstance(result, StoredPost) for result in results] == allowed
        assert recorder.count(posts.UPDATE_MANY) == 1
        rows = await db.fetch("select title, version from posts order by id")
        assert [row["title"] == "New" for row in rows] == allowed
        assert [row["version"] for row in rows] == [1 + one for one in allowed]


@pytest.mark.parametrize("rows", [1, 2], ids=["alone", "in a batch"])
async def test_a_write_that_waited_for_another_one_sees_its_version(
    url_for_db: str, db: asyncpg.Connection, rows: int
) -> None:
    recorder = Recorder(url_for_db)
    principal = await principal_of(db, "alice")
    async with recorder.lifespan():
        made = [await posts.insert(recorder, principal, PostCreate(str(n), "C")) for n in range(rows)]
        transaction = db.transaction()
        await transaction.start()
        await db.execute("update posts set title = 'Theirs', version = version + 1 where id = $1", made[0].post.id)
        condition = VersionCondition(frozenset({1}))
        writes = [
            asyncio.create_task(posts.update(recorder, one.post.id, principal, PostUpdate(title="Mine"), condition))
            for one in made
        ]
        await wait_for_blocked_session(db)
        assert not writes[0].done()
        await transaction.commit()

        results = await asyncio.gather(*writes, return_exceptions=True)

        assert isinstance(results[0], PostChanged)
        assert [row["title"] for row in await db.fetch("select title from posts order by id")] == [
            "Theirs",
            *["Mine"] * (rows - 1),
        ]


async def test_a_write_that_is_not_applied_names_the_reason(url_for_db: str, db: asyncpg.Connection) -> None:
    """After the statement, the service finds out whether the post, its version or the session is the reason."""
    recorder = Recorder(url_for_db)
    async with recorder.lifespan():
        for happens, expected in [
            ("delete from posts", None),
            ("delete from sessions", InvalidToken),
            ("update posts set version = version + 1", PostChanged),
        ]:
            principal = await principal_of(db, happens)
            made = await posts.insert(recorder, principal, PostCreate("T", "C"))
            await db.execute(happens)
            condition = VersionCondition(frozenset({made.version}))
            writes = [
                posts.update(recorder, made.post.id, principal, PostUpdate(title="New"), condition),
                posts.delete(recorder, made.post.id, principal, condition),
            ]
            for result in await asyncio.gather(*writes, return_exceptions=True):
                assert type(result) is expected if expected else not result


async def test_a_write_of_an_ended_session_is_unauthorized(client: httpx.AsyncClient, alice: Person) -> None:
    post = await alice.publish()
    ended = await Tokens.log_in(alice)
    await client.post("/auth/revoke", data={"token": ended.access})

    response = await client.patch(
        f"/posts/{post['id']}", json={"title": "New"}, headers={**ended.headers, "If-Match": '"x"'}
    )

    assert_problem(response, 401, "invalid_token")


# A model: the tags of a header, and the strong and weak comparison of RFC 9110, section 8.8.3.2.
TAGS = st.lists(
    st.tuples(
        st.booleans(), st.sampled_from([*(f'"7-{n}-1"' for n in range(1, 5)), '"8-1-1"', '"7-1-2"', '"x,y"', '""'])
    ),
    max_size=5,
)


@st.composite
def headers(draw: st.DrawFn) -> tuple[str, list[tuple[bool, str]] | None]:
    """A header field with its meaning: weak or strong tags, or ``None`` for ``*``."""
    if draw(st.booleans()) and draw(st.booleans()):
        return "*", None
    tags = draw(TAGS)
    separator = draw(st.sampled_from([",", ", ", " , ", ",,\t"]))
    return separator.join("W/" * weak + tag for weak, tag in tags), tags


@given(st.none() | headers(), st.none() | headers(), st.integers(1, 5))
@settings(max_examples=500, deadline=None, suppress_health_check=list(HealthCheck))
def test_the_conditions_are_those_of_the_model(
    if_match: tuple[str, list[tuple[bool, str]] | None] | None,
    if_none_match: tuple[str, list[tuple[bool, str]] | None] | None,
    version: int,
) -> None:
    tag = f'"7-{version}-1"'
    sent = [
        (name, field[0].encode())
        for name, field in [(b"if-match", if_match), (b"if-none-match", if_none_match)]
        if field
    ]

    passes = True
    if if_match and if_match[1] is not None:
        passes &= (False, tag) in if_match[1]
    if if_none_match:
        passes &= if_none_match[1] is not None and tag not in [other for _, other in if_none_match[1]]

    assert version_condition({"headers": sent}, 7).allows(version) == passes  # type: ignore[arg-type]


async def test_a_list_of_ten_thousand_tags_is_read_at_once(client: httpx.AsyncClient, alice: Person) -> None:
    post = await alice.publish()
    tag = await tag_of(client, post)
    path = f"/posts/{post['id']}"

    many = ",".join([*(f'"{post["id"]}-{n}-1"' for n in range(2, 5000)), tag])
    async with asyncio.timeout(5):
        changed = await client.patch(path, json={"title": "New"}, headers={**alice.headers, "If-Match": many})
        spaces = await client.get(path, headers={"If-None-Match": '"a"' + " " * 60_000 + "x"})

    assert changed.status_code == 200
    assert_problem(spaces, 400, "malformed_precondition")


async def test_the_tag_of_a_list_covers_its_rows_and_its_link(client: httpx.AsyncClient, alice: Person) -> None:
    async def tag(path: str = "/posts?limit=2") -> str:
        response = await client.get(path)
        assert (await client.head(path)).headers["etag"] == response.headers["etag"]
        return response.headers["etag"]

    tags = [await tag()]
    made = [await alice.publish() for _ in range(2)]
    tags.append(await tag())
    await client.patch(f"/posts/{made[1]['id']}", json={"content": "New"}, headers=alice.headers)
    tags.append(await tag())
    await client.patch(f"/posts/{made[0]['id']}", json={"content": "New"}, headers=alice.headers)
    tags.append(await tag())
    assert await tag() == tags[-1]
    made.append(await alice.publish())  # it is on the next page, to which the Link leads now
    tags.append(await tag())
    tags.append(await tag("/posts?limit=1"))
    tags.append(await tag("/posts/?limit=2"))  # the reference in Link is another one
    await client.delete(f"/posts/{made[0]['id']}", headers=alice.headers)
    tags.append(await tag())

    assert len(set(tags)) == len(tags)


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_a_list_that_the_client_has_is_not_sent_again(
    client: httpx.AsyncClient, alice: Person, method: str
) -> None:
    for _ in range(3):
        await alice.publish()
    path = f"/posts?limit=2&user_id={alice.id}"
    listed = await client.get(path)
    tag = listed.headers["etag"]

    same = await client.request(method, path, headers={"If-None-Match": f'"x", W/{tag}'})
    other = await client.request(method, path, headers={"If-None-Match": '"x"'})
    changed = await client.get(path, headers={"If-Match": '"x"'})
    malformed = await client.get(path, headers={"If-None-Match": "x"})

    assert (same.status_code, same.content) == (304, b"")
    assert (same.headers["etag"], same.headers["cache-control"]) == (tag, "no-cache")
    assert (other.status_code, other.headers["link"]) == (200, listed.headers["link"])
    assert_problem(changed, 412, "list_changed", "The list has changed")
    assert_problem(malformed, 400, "malformed_precondition")


@pytest.mark.parametrize("query", ["sort=-id", "q=word", "q=word&user_id={user_id}", "sort=-id&user_id={user_id}"])
async def test_every_kind_of_list_has_a_tag(client: httpx.AsyncClient, alice: Person, query: str) -> None:
    made = [await alice.publish(content=f"word {number}") for number in range(3)]
    path = f"/posts?limit=2&{query.format(user_id=alice.id)}"
    first = await client.get(path)
    tag = first.headers["etag"]

    same = await client.get(path, headers={"If-None-Match": tag})
    listed = [post["id"] for post in first.json()]
    await client.patch(f"/posts/{listed[0]}", json={"title": "New"}, headers=alice.headers)
    changed = await client.get(path, headers={"If-None-Match": tag})

    assert len(listed) == 2
    assert set(listed) <= {post["id"] for post in made}
    assert same.status_code == 304
    assert (changed.status_code, changed.headers["etag"] != tag) == (200, True)
