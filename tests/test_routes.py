"""Litestar's manual applies: every feature that a handler declares works. Routes are private by default."""

import logging
from collections.abc import AsyncIterator
from typing import Any

import httpx
import litestar
import msgspec
import pytest
from litestar import Controller, Litestar, WebSocket
from litestar.config.compression import CompressionConfig
from litestar.config.csrf import CSRFConfig
from litestar.exceptions import ImproperlyConfiguredException
from litestar.handlers import BaseRouteHandler
from litestar.params import FromQuery, HeaderParameter
from litestar.routes import HTTPRoute
from litestar.types import Receive, Scope, Send

from service.app import create_app
from service.http.responses import JSONResponse
from service.http.routes import Route, RouteRules, get
from service.settings import Settings
from tests import manual
from tests.bodies import FORM
from tests.conftest import Serve, settings_of
from tests.people import Person, assert_problem
from tests.serving import Share, SharedApp, open_client

PUBLIC = {
    "GET /",
    "GET /health/live",
    "GET /health/ready",
    "POST /auth/register",
    "POST /auth/token",
    "POST /auth/revoke",
    "GET /users/{user_id}",
    "GET /posts",
    "GET /posts/{post_id}",
    "GET /docs",
    "GET /docs/{name}",
    "GET /openapi.json",
}
PRIVATE = {
    "GET /users/me",
    "PATCH /users/me",
    "POST /users/me/password",
    "POST /users/me/deletion",
    "GET /users/me/export",
    "GET /users/me/sessions",
    "DELETE /users/me/sessions",
    "DELETE /users/me/sessions/{session_id}",
    "POST /posts",
    "PATCH /posts/{post_id}",
    "DELETE /posts/{post_id}",
}


def routes(app: Litestar) -> dict[str, Route]:
    return {
        f"{method} {route.path_format}": handler
        for route in app.routes
        if isinstance(route, HTTPRoute)
        for method, (handler, _) in route.route_handler_map.items()
        if isinstance(handler, Route) and method != "HEAD"
    }


@pytest.fixture(scope="session")
async def module_app(share: Share) -> SharedApp:
    return await share(manual.Manual)


@pytest.fixture
async def app(module_app: SharedApp) -> AsyncIterator[Litestar]:
    async with module_app.for_a_test() as shared:
        manual.done.clear()
        await shared.app.response_cache_config.get_store_from_app(shared.app).delete_all()
        yield shared.app


@pytest.fixture
async def client(app: Litestar, module_app: SharedApp) -> AsyncIterator[httpx.AsyncClient]:
    assert app is module_app.app
    async with open_client(module_app.address) as opened:
        yield opened


def faults(response: httpx.Response) -> dict[str, str]:
    assert_problem(response, 422, "invalid_fields")
    return {fault["pointer"]: fault["detail"] for fault in response.json()["errors"]}


# Which routes need a user, and which are fast.


def test_only_the_listed_routes_are_public() -> None:
    found = routes(create_app(settings_of()))

    assert {name for name, route in found.items() if route.is_public} == PUBLIC
    assert {name for name, route in found.items() if not route.is_public} == PRIVATE


@pytest.mark.parametrize("name", sorted(PUBLIC | PRIVATE))
async def test_a_private_route_answers_401_without_a_token_and_a_public_one_does_not(
    client: httpx.AsyncClient, name: str
) -> None:
    method, path = name.split(" ")

    response = await client.request(method, path.format(user_id=1, post_id=1, session_id=1, name="start.js"))

    if name in PRIVATE:
        assert_problem(response, 401, "not_authenticated", "Not authenticated")
    else:
        assert response.status_code != 401


async def test_a_route_is_private_by_default(serve: Serve, settings: Settings) -> None:
    @get("/forgotten")
    async def forgotten() -> dict[str, str]:
        return {"secret": "yes"}

    app = create_app(settings)
    app.register(forgotten)
    async with open_client(await serve(app)) as client:
        refused = await client.get("/forgotten")
        alice = await Person.register(client, "alice")
        served = await client.get("/forgotten", headers=alice.headers)

    assert_problem(refused, 401, "not_authenticated")
    assert served.json() == {"secret": "yes"}


@litestar.get("/plain")
async def plain() -> None: ...


@litestar.websocket("/socket")
async def socket_handler(socket: WebSocket[Any, Any, Any]) -> None: ...


@litestar.asgi("/mounted", is_mount=True, copy_scope=True)
async def mounted(scope: Scope, receive: Receive, send: Send) -> None: ...


@pytest.mark.parametrize("handler", [plain, socket_handler, mounted], ids=str)
def test_a_handler_of_litestars_own_decorators_stops_the_start_unless_it_is_declared_public(
    handler: BaseRouteHandler,
) -> None:
    with pytest.raises(ImproperlyConfiguredException, match="make public routes"):
        create_app(settings_of()).register(handler)

    handler.opt["public"] = True
    create_app(settings_of()).register(handler)


def test_every_route_of_the_service_takes_the_fast_path() -> None:
    assert [name for name, route in routes(create_app(settings_of())).items() if not route.is_fast] == []


async def test_a_handler_with_other_features_does_not_take_the_fast_path(app: Litestar) -> None:
    fast = {name for name, route in routes(app).items() if route.is_fast}

    assert {"GET /manual/query", "GET /manual/headers", "POST /manual/json", "PUT /manual/form"} <= fast
    assert not fast & {
        f"{method} /manual/{name}"
        for method, names in {
            "GET": "dependencies reserved before after background cookies cached sync text encoded paths",
            "POST": "raw optional renamed msgpack upload files large",
            "PATCH": "mixed",
        }.items()
        for name in names.split()
    }


@pytest.mark.parametrize(
    "config",
    [
        {"compression_config": CompressionConfig("gzip", minimum_size=1)},
        {"csrf_config": CSRFConfig(secret="s" * 32)},
        {"allowed_hosts": ["example.com"]},
        {"before_request": manual.answer_instead},
        {"after_request": manual.add_header},
        {"after_response": manual.after_response},
        {"response_cookies": {"flavour": "rye"}},
        {"type_encoders": {complex: str}},
        {"request_class": litestar.Request},
        {"response_class": JSONResponse},
        {"parameters": {"x": HeaderParameter(annotation=str, name="X")}},
    ],
    ids=lambda config: next(iter(config)),
)
def test_features_of_the_app_disable_the_fast_path_of_all_routes(config: dict[str, Any]) -> None:
    @get("/", public=True)
    async def handler() -> dict[str, str]:
        return {}

    app = Litestar([handler], plugins=[RouteRules()], openapi_config=None, logging_config=None, **config)

    assert not routes(app)["GET /"].is_fast


def test_a_websocket_in_a_route_stops_the_start() -> None:
    class Asking(Controller):
        @get("/")
        async def ask(self, socket: WebSocket[Any, Any, Any]) -> None: ...

    with pytest.raises(ImproperlyConfiguredException, match="'socket' kwarg is not supported"):
        Litestar([Asking], logging_config=None)


def test_a_private_route_is_cached_only_with_a_cache_key_builder() -> None:
    @get("/", cache=60)
    async def shared() -> dict[str, str]:
        return {}

    @get("/", cache=60, cache_key_builder=lambda request: str(request.user))
    async def separate() -> dict[str, str]:
        return {}

    with pytest.raises(ImproperlyConfiguredException, match="cannot be cached without a cache_key_builder"):
        Litestar([shared], logging_config=None)
    Litestar([separate], logging_config=None)


def test_a_default_that_requests_would_share_and_could_change_stops_the_start() -> None:
    @get("/shared", public=True)
    async def shared(names: FromQuery[list[str]] = []) -> list[str]:  # noqa: B006 - what is tested
        return names

    with pytest.raises(TypeError, match="unhashable type"):
        Litestar([shared], logging_config=None)


@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning")
async def test_a_parameter_without_a_declaration_is_a_query_parameter(serve: Serve, settings: Settings) -> None:
    @get("/inferred/{name:str}", public=True)
    async def inferred(name: str, limit: int = 5) -> dict[str, object]:
        return {"name": name, "limit": limit}

    app = create_app(settings)
    app.register(inferred)
    async with open_client(await serve(app)) as client:
        assert (await client.get("/inferred/a?limit=7")).json() == {"name": "a", "limit": 7}
        assert (await client.get("/inferred/a")).json() == {"name": "a", "limit": 5}
        assert faults(await client.get("/inferred/a?limit=x")) == {"/limit": "must be a whole number"}


# The features that a handler may declare.


@pytest.mark.parametrize(
    ("query", "given"),
    [
        ("text=2026", ["2026", 50, None, None, None, False, None, None, "fast"]),
        ("text=null&maybe=7", ["null", 50, 7, None, None, False, None, None, "fast"]),
        ("text=&either=x", ["", 50, None, "x", None, False, None, None, "fast"]),
        ("text=true&either=1.50", ["true", 50, None, "1.50", None, False, None, None, "fast"]),
        ("text=a&text=b&number=1&number=2", ["b", 2, None, None, None, False, None, None, "fast"]),
        ("text=a&ratio=1.5&is_on=true&mode=slow", ["a", 50, None, None, 1.5, True, None, None, "slow"]),
        ("text=a&tag=1&tag=b&numbers=1&numbers=2", ["a", 50, None, None, None, False, ["1", "b"], [1, 2], "fast"]),
        ("text=%C3%A9+%2B&tag=x&tags=y", ["é +", 50, None, None, None, False, ["x"], None, "fast"]),
    ],
)
async def test_query_parameters_have_the_types_of_the_signature(
    client: httpx.AsyncClient, query: str, given: list[object]
) -> None:
    response = await client.get(f"/manual/query?{query}")

    assert (response.status_code, response.json()["given"]) == (200, given)


async def test_all_invalid_query_parameters_are_reported_at_once(client: httpx.AsyncClient) -> None:
    response = await client.get(
        "/manual/query?number=0&maybe=null&ratio=nan&is_on=perhaps&numbers=1&numbers=x&numbers=1e1&mode=medium"
    )

    assert faults(response) == {
        "/text": "is required",
        "/number": "must be a whole number from 1 to 100",
        "/maybe": "must be a whole number",
        "/ratio": "must be a number",
        "/is_on": "must be true or false",
        "/numbers/1": "must be a whole number",
        "/mode": 'must be "fast" or "slow"',
    }


async def test_parameters_may_have_defaults_and_any_type(client: httpx.AsyncClient) -> None:
    item_id = "12345678-1234-5678-1234-567812345678"
    query = f"maybe=1&declared=6&pair=3&pair=4&unique=b&unique=a&unique=b&size=1e2&day=2026-11-22&item_id={item_id}"

    given = await client.get(f"/manual/defaults?{query}")
    absent = await client.get("/manual/defaults")
    faulty = await client.get("/manual/defaults?pair=1&size=1e400&day=22.11.&item_id=1")

    assert given.json() == {"given": [1, 6, [3, 4], ["a", "b"], 100.0, "2026-11-22", item_id]}
    assert absent.json() == {"given": [None, 5, [1, 2], None, 0.5, None, None]}
    assert faults(faulty) == {
        "/pair": "must have 2 items",
        "/size": "must be a number",
        "/day": "must be a date such as 2026-11-22",
        "/item_id": "must be a UUID",
    }


async def test_null_is_a_text_and_never_an_absent_parameter(client: httpx.AsyncClient) -> None:
    text = await client.get("/manual/nullable?text=null&names=null")
    absent = await client.get("/manual/nullable")
    faulty = await client.get("/manual/nullable?mode=null&is_on=NULL&day=null&flags=true&flags=null")

    assert text.json() == {"given": ["null", None, None, None, None, ["null"]]}
    assert absent.json() == {"given": [None] * 6}
    assert faults(faulty) == {
        "/mode": 'must be "fast" or "slow"',
        "/is_on": "must be true or false",
        "/day": "must be a date such as 2026-11-22",
        "/flags/1": "must be true or false",
    }


async def test_a_rule_for_several_parameters_also_holds_if_all_are_absent(client: httpx.AsyncClient) -> None:
    given = await client.get("/manual/one-of-two?email=a")
    absent = await client.get("/manual/one-of-two")
    unknown = await client.get("/manual/one-of-two?other=a")

    assert given.json() == {"given": [None, "a"]}
    assert faults(absent) == faults(unknown) == {"/name": "is required without an email"}


async def test_header_fields_and_cookies_have_the_types_of_the_signature(client: httpx.AsyncClient) -> None:
    headers = {"x-version": "2", "Agent": "007", "Cookie": "session-id=123; theme=dark; other=1"}

    full = await client.get("/manual/headers", headers=headers)
    least = await client.get("/manual/headers", headers={"X-VERSION": "1"})
    faulty = await client.get("/manual/headers", headers={"X-Version": "0", "Cookie": "session-id=1"})

    assert full.json() == {"given": [2, "007", "123", "dark"]}
    assert least.json() == {"given": [1, "none", None, "light"]}
    assert faults(faulty) == {
        "/X-Version": "must be a whole number of at least 1",
        "/session-id": "must have at least 3 characters",
    }
    assert faults(await client.get("/manual/headers")) == {"/X-Version": "is required"}


async def test_invalid_parameters_and_body_fields_are_reported_together(client: httpx.AsyncClient) -> None:
    body = {"name": "a", "amount": 10, "email": "x"}
    expected = {
        "/factor": "must be a whole number",
        "/name": "must have at least 2 characters",
        "/amount": "must be a whole number from 1 to 9",
        "/email": "An email address must have an @-sign.",
    }

    fast = await client.post("/manual/json?factor=x", json=body)
    slow = await client.patch("/manual/mixed?factor=x", json=body)
    served = await client.patch("/manual/mixed?factor=2", json={"name": "ab", "amount": 3}, headers={"X-Version": "5"})

    assert faults(fast) == expected
    assert faults(slow) == expected | {"/X-Version": "is required"}
    assert served.json() == {"amount": 30}


async def test_a_form_is_a_struct_with_fields_of_any_type(client: httpx.AsyncClient) -> None:
    form = {"name": "2026", "amount": "3", "ratio": "0.5", "is_on": "true", "tags": ["1", "b"], "sizes": ["4", "5"]}

    response = await client.put("/manual/form", data=form)
    faulty = await client.put(
        "/manual/form", content="name=a&amount=0&amount=1&ratio=null&sizes=1.0&mode=9&size=null", headers=FORM
    )

    assert response.json() == {
        "name": "2026",
        "amount": 3,
        "ratio": 0.5,
        "is_on": True,
        "tags": ["1", "b"],
        "sizes": [4, 5],
        "mode": "fast",
        "size": None,
    }
    assert faults(faulty) == {
        "/name": "must have at least 2 characters",
        "/amount": "is given more than once",
        "/ratio": "must be a number",
        "/sizes/0": "must be a whole number",
        "/mode": 'must be "fast" or "slow"',
        "/size": 'must be "large" or "small"',
    }


@pytest.mark.parametrize("path", ["html", "declared-html"])
async def test_a_response_may_have_another_media_type(client: httpx.AsyncClient, path: str) -> None:
    response = await client.get(f"/manual/{path}")

    assert response.headers["content-type"] == "text/html; charset=utf-8"
    assert response.text == "<p>Grüße</p>"


@pytest.mark.parametrize(
    ("path", "done"), [("cookie", "background of a response"), ("json-cookie", "background of JSON")]
)
async def test_a_response_may_carry_cookies_and_a_background_task(
    client: httpx.AsyncClient, path: str, done: str
) -> None:
    response = await client.get(f"/manual/{path}")

    assert response.json() == {"set": True}
    assert response.cookies["flavour"] == "oat"
    assert response.headers.get("x-set") == ("yes" if path == "json-cookie" else None)
    assert manual.done == [done]


@pytest.mark.parametrize(
    ("path", "status"), [("nothing", 204), ("deleted", 204), ("not-modified", 304), ("not-modified-cookie", 304)]
)
async def test_204_and_304_have_no_body_and_no_content_fields(
    client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture, path: str, status: int
) -> None:
    response = await client.get(f"/manual/{path}")
    again = await client.get(f"/manual/{path}")

    assert (response.status_code, response.content) == (status, b"")
    assert not {"content-type", "content-length", "transfer-encoding"} & set(response.headers)
    assert response.headers.get("etag") == ('"1"' if status == 304 else None)
    # The connection is kept, so no body was sent after the head.
    assert again.extensions["network_stream"] is response.extensions["network_stream"]
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_headers_that_a_layer_declares_are_sent(client: httpx.AsyncClient) -> None:
    response = await client.get("/manual/cached-head")

    assert (response.headers["cache-control"], response.headers["x-fixed"]) == ("max-age=60", "yes")


@pytest.mark.parametrize("path", ["visitors", "json-visitors"])
async def test_an_object_that_has_changed_since_the_last_request_is_sent_as_it_is_now(
    client: httpx.AsyncClient, path: str
) -> None:
    answers = [(await client.get(f"/manual/{path}")).json() for _ in range(2)]

    assert answers == [["visitor"], ["visitor", "visitor"]]


async def test_streams_files_and_redirects_are_sent(client: httpx.AsyncClient) -> None:
    assert (await client.get("/manual/stream")).text == "ab"
    assert "A handler for each feature" in (await client.get("/manual/file")).text
    redirect = await client.get("/manual/redirect")
    assert (redirect.status_code, redirect.headers["location"]) == (302, "/manual/html")


async def test_guards_and_exception_handlers_of_a_handler_apply(client: httpx.AsyncClient) -> None:
    assert_problem(await client.get("/manual/guarded"), 403, "forbidden", "Not today")
    handled = await client.get("/manual/handled")
    assert (handled.status_code, handled.text) == (418, "'pot'")
    unavailable = await client.get("/manual/unavailable")
    assert_problem(unavailable, 503, "service_unavailable", "Come back later")
    assert unavailable.headers["retry-after"] == "9"
    assert (await client.delete("/manual/teapot")).status_code == 418


async def test_middleware_of_a_handler_sees_errors_as_responses_and_knows_the_principal(
    client: httpx.AsyncClient,
) -> None:
    alice = await Person.register(client, "alice")

    assert (await client.get("/manual/stamped")).headers["x-stamp"] == "None"
    failed = await client.get("/manual/stamped?fail=true")
    assert_problem(failed, 500, "internal_server_error")
    assert failed.headers["x-stamp"] == "None"
    private = await client.get("/manual/stamped-and-private", headers=alice.headers)
    assert private.headers["x-stamp"].startswith(f"Principal(user_id={alice.id}, ")
    assert_problem(await client.get("/manual/stamped-and-private"), 401, "not_authenticated")


async def test_middleware_may_read_the_body_before_the_handler(client: httpx.AsyncClient) -> None:
    response = await client.post("/manual/peeked", content=b'{"name": "ab"}')

    assert response.json() == {"name": "ab"}
    assert manual.done == ['{"name": "ab"}']


async def test_dependencies_are_called_with_their_own_parameters_and_cleaned_up(client: httpx.AsyncClient) -> None:
    served = await client.get("/manual/dependencies?page=3&size=9", headers={"X-Region": "eu"})
    assert served.json() == {"given": ["page 3 of eu", "connection", 9]}
    assert manual.done == ["opened", "handled", "closed"]

    faulty = await client.get("/manual/dependencies?page=0&size=10", headers={"X-Region": "e"})
    assert faults(faulty) == {
        "/size": "must be a whole number of at most 9",
        "/page": "must be a whole number of at least 1",
        "/X-Region": "must have at least 2 characters",
    }
    assert faults(await client.get("/manual/dependencies")) == {
        "/size": "is required",
        "/page": "is required",
        "/X-Region": "is required",
    }
    assert manual.done == ["opened", "handled", "closed"]


async def test_litestars_reserved_arguments_are_given(client: httpx.AsyncClient, settings: Settings) -> None:
    response = await client.get("/manual/reserved?a=b", headers={"X-Version": "1", "Cookie": "theme=dark"})

    assert response.json() == {"given": ["1", "dark", "b", "http", settings.port]}
    assert (await client.post("/manual/raw", content=b"12345")).json() == {"size": 5}


async def test_a_body_may_be_of_any_type(client: httpx.AsyncClient) -> None:
    item = {"name": "ab", "email": "a@Example.com"}

    assert (await client.post("/manual/items", json=[item, item])).json() == {"names": ["ab", "ab"]}
    assert (await client.post("/manual/point", json={"x": 1, "y": 2})).json() == {"x": 1, "y": 2}
    assert (await client.post("/manual/optional", json=item)).json() == {"name": "ab"}
    assert (await client.post("/manual/optional")).json() == {"name": None}
    assert (await client.post("/manual/renamed", json={"name": "ab", "amount": 3})).json() == {
        "name": "ab",
        "amount": 3,
    }
    packed = await client.post(
        "/manual/msgpack", content=msgspec.msgpack.encode(item), headers={"Content-Type": "application/x-msgpack"}
    )
    assert packed.json() == {"name": "ab"}
    marked = await client.post("/manual/items", content=b"\xef\xbb\xbf[]", headers={"Content-Type": "application/json"})
    assert marked.json() == {"names": []}


async def test_invalid_values_of_any_type_are_described_in_plain_words(client: httpx.AsyncClient) -> None:
    assert faults(await client.post("/manual/items", json=[{"name": "ab"}, {"name": "a"}])) == {
        "/1/name": "must have at least 2 characters"
    }
    assert faults(await client.post("/manual/point", json={"x": 1})) == {"/y": "is required"}
    assert_problem(await client.post("/manual/items", content=b"[", headers={}), 400, "not_json")
    assert_problem(await client.post("/manual/items", content=b"[]", headers=FORM), 415, "wrong_content_type")


def title(text: str, charset: str) -> bytes:
    """A multipart form with one field."""
    fields = f'Content-Disposition: form-data; name="title"\r\nContent-Type: text/plain; charset={charset}'
    return f"--B\r\n{fields}\r\n\r\n{text}\r\n--B--\r\n".encode()


async def test_files_are_uploaded(client: httpx.AsyncClient) -> None:
    form = {"title": "2026", "amount": "3"}

    served = await client.post("/manual/upload", data=form, files={"file": ("a.txt", b"content")})
    many = await client.post("/manual/files", files=[("one", ("1.txt", b"1")), ("two", ("2.txt", b"2"))])
    faulty = await client.post("/manual/upload", data={"title": "a", "amount": "1.0"}, files={"other": ("a", b"")})

    assert served.json() == {"title": "2026", "amount": 3, "text": "content"}
    assert many.json() == {"names": ["1.txt", "2.txt"]}
    assert faults(faulty) == {
        "/title": "must have at least 2 characters",
        "/amount": "must be a whole number of at least 1",
        "/file": "is required",
    }


@pytest.mark.parametrize(
    ("content_type", "body", "status", "code"),
    [
        ("application/json", b"{}", 415, "wrong_content_type"),
        ("multipart/form-data; boundary=B", b"nonsense", 400, "not_form"),
        ("multipart/form-data", b"nonsense", 400, "not_form"),
        ("multipart/form-data; boundary=B", title("x", charset="nonsense"), 400, "not_form"),
        ("multipart/form-data; boundary=B", title("+2AA-", charset="utf-7"), 400, "not_form"),  # a lone surrogate
    ],
)
async def test_a_hostile_upload_is_refused(
    client: httpx.AsyncClient, content_type: str, body: bytes, status: int, code: str
) -> None:
    response = await client.post("/manual/upload", content=body, headers={"Content-Type": content_type})

    assert_problem(response, status, code)


async def test_a_route_has_a_body_limit_of_its_own(client: httpx.AsyncClient) -> None:
    large = b"x" * (2 * 1024 * 1024)
    larger = b"x" * (3 * 1024 * 1024 + 1)

    assert (await client.post("/manual/large", content=large)).json() == {"size": len(large)}
    assert_problem(await client.post("/manual/large", content=larger), 413, "body_too_large", "The body is over 3 MiB")
    small = await client.post("/manual/large-json", json={"name": "a" * 200})
    assert_problem(small, 413, "body_too_large", "The body is over 100 bytes")
    upload = await client.post("/manual/upload", data={"title": "ab", "amount": "1"}, files={"file": ("a", large)})
    assert_problem(upload, 413, "body_too_large", "The body is over 1 MiB")


async def test_the_request_itself_reads_json_with_our_errors(client: httpx.AsyncClient) -> None:
    read = await client.post("/manual/from-request", json={"a": 1})
    malformed = await client.post("/manual/from-request", content=b"{")
    compressed = await client.post("/manual/from-request", content=b"{}", headers={"Content-Encoding": "gzip"})

    assert read.json() == {"json": {"a": 1}}
    assert_problem(malformed, 400, "not_json")
    assert_problem(compressed, 415, "content_coding_not_supported")


async def test_a_body_may_be_streamed_once_and_within_its_limit(client: httpx.AsyncClient) -> None:
    async def chunks(count: int) -> AsyncIterator[bytes]:
        for _ in range(count):
            yield b"x" * 100_000

    assert (await client.post("/manual/streamed", content=chunks(10))).json() == {"size": 1_000_000}
    assert_problem(await client.post("/manual/streamed", content=chunks(11)), 413, "body_too_large")
    assert_problem(await client.post("/manual/streamed-twice", content=b"x"), 500, "internal_server_error")


async def test_hooks_of_a_handler_run(client: httpx.AsyncClient) -> None:
    assert (await client.get("/manual/before")).json() == {"instead": False}
    assert (await client.get("/manual/before?instead=1")).json() == {"instead": True}
    after = await client.get("/manual/after")
    assert (after.json(), after.headers["x-after"], after.cookies["after"]) == ({"a": 1}, "yes", "yes")
    assert manual.done == ["after /manual/after"]


async def test_background_tasks_and_cookies_of_a_handler_work(client: httpx.AsyncClient) -> None:
    await client.get("/manual/background")
    assert manual.done == ["background of a handler"]
    assert (await client.get("/manual/cookies")).cookies["flavour"] == "rye"


async def test_a_response_is_cached(client: httpx.AsyncClient) -> None:
    first, second = await client.get("/manual/cached"), await client.get("/manual/cached")

    assert first.json() == second.json() == {"computed": 1}
    assert manual.done == ["computed"]


async def test_a_handler_may_be_synchronous_and_return_other_types(client: httpx.AsyncClient) -> None:
    assert (await client.get("/manual/sync?number=3")).json() == {"number": 3}
    assert (await client.post("/manual/sync-json", json={"name": "ab"})).json() == {"name": "ab"}
    assert (await client.put("/manual/sync-form", data={"name": "ab", "amount": 1})).json() == {"name": "ab"}
    text = await client.get("/manual/text")
    assert (text.text, text.headers["content-type"]) == ("plain", "text/plain; charset=utf-8")
    assert (await client.get("/manual/encoded")).json() == {"number": "1j"}


async def test_an_invalid_path_parameter_is_a_404(client: httpx.AsyncClient) -> None:
    assert (await client.get("/manual/number/1")).json() == {"number": 1}
    assert_problem(await client.get("/manual/number/0"), 404, "not_found", "Not Found")
    assert_problem(await client.get("/manual/number/x"), 404, "not_found", "Not Found")
    assert (await client.get("/manual/id/7")).json() == {"id": 7, "type": "PostId"}
    assert_problem(await client.get("/manual/id/07"), 404, "post_not_found")
    assert (await client.get("/manual/paths")).json() == {"name": None}
    assert (await client.get("/manual/paths/x")).json() == {"name": "x"}


async def test_the_document_describes_the_parameters_of_the_signature(app: Litestar, client: httpx.AsyncClient) -> None:
    del app
    response = await client.get("/openapi.json")

    parameters = {one["name"]: one for one in response.json()["paths"]["/posts"]["get"]["parameters"]}
    assert parameters["limit"] == {
        "name": "limit",
        "in": "query",
        "required": False,
        "description": "The most posts on a page.",
        "schema": {"type": "integer", "minimum": 1, "maximum": 100, "default": 50},
    }
    assert parameters["user_id"]["schema"] == {
        "type": "integer",
        "format": "int64",
        "minimum": 1,
        "maximum": 2**63 - 1,
    }
