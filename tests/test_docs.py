"""The API page and the OpenAPI document."""

import re
import unicodedata
from typing import Any

import httpx
import msgspec
import pytest
from litestar.routes import HTTPRoute

from service.app import create_app
from service.security import positions
from tests.conftest import settings_of
from tests.people import Json, Person, login

EXPECTED = {
    "POST /auth/register": {"201", "400", "409", "413", "415", "422", "429", "503"},
    "POST /auth/token": {"200", "400", "401", "413", "415", "422", "429", "503"},
    "POST /auth/revoke": {"200", "400", "413", "415", "422", "503"},
    "GET /users/me": {"200", "401", "503"},
    "GET /users/{user_id}": {"200", "404", "503"},
    "POST /posts": {"201", "400", "401", "409", "413", "415", "422", "503"},
    "GET /posts": {"200", "304", "400", "412", "422", "503"},
    "GET /posts/{post_id}": {"200", "304", "400", "404", "412", "503"},
    "PATCH /posts/{post_id}": {"200", "400", "401", "403", "404", "412", "413", "415", "422", "503"},
    "DELETE /posts/{post_id}": {"204", "400", "401", "403", "404", "412", "503"},
    "GET /users/me/sessions": {"200", "401", "503"},
    "DELETE /users/me/sessions": {"204", "401", "503"},
    "DELETE /users/me/sessions/{session_id}": {"204", "401", "404", "503"},
    "PATCH /users/me": {"200", "400", "401", "403", "409", "413", "415", "422", "429", "503"},
    "POST /users/me/password": {"204", "400", "401", "403", "413", "415", "422", "429", "503"},
    "GET /users/me/export": {"200", "401", "503"},
    "POST /users/me/deletion": {"204", "400", "401", "403", "413", "415", "422", "429", "503"},
    "GET /": {"200"},
    "GET /health/live": {"200"},
    "GET /health/ready": {"200", "503"},
}
PROTECTED = {
    "GET /users/me/sessions",
    "DELETE /users/me/sessions/{session_id}",
    "DELETE /users/me/sessions",
    "GET /users/me",
    "PATCH /users/me",
    "POST /users/me/password",
    "GET /users/me/export",
    "POST /users/me/deletion",
    "POST /posts",
    "PATCH /posts/{post_id}",
    "DELETE /posts/{post_id}",
}


@pytest.fixture
async def document(client: httpx.AsyncClient) -> Json:
    response = await client.get("/openapi.json")
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    schema: Json = response.json()
    return schema


def operations(document: Json) -> dict[str, Json]:
    return {
        f"{method.upper()} {path}": operation
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }


def references(node: Any) -> set[str]:
    if isinstance(node, dict):
        found = {node["$ref"]} if isinstance(node.get("$ref"), str) else set()
        return found.union(*(references(value) for value in node.values()))
    return set().union(*(references(value) for value in node)) if isinstance(node, list) else set()


async def test_the_document_describes_every_route_with_its_statuses(document: Json) -> None:
    assert document["openapi"].startswith("3.1")
    assert {name: set(operation["responses"]) for name, operation in operations(document).items()} == EXPECTED


def test_the_document_is_built_at_the_start_and_not_by_a_request() -> None:
    app = create_app(settings_of())

    assert msgspec.json.decode(app.state["openapi"])["openapi"].startswith("3.1")
    assert create_app(settings_of()).state["openapi"] is app.state["openapi"]  # once for each process


async def test_every_route_has_a_name_sentences_and_a_tag(document: Json) -> None:
    described = {tag["name"] for tag in document["tags"]}
    for operation in operations(document).values():
        assert re.fullmatch(r"[A-Z][a-z]+( [A-Za-z]+| user's)*", operation["summary"]), operation["summary"]
        assert operation["description"].endswith(".")
        assert set(operation["tags"]) <= described
        for response in operation["responses"].values():
            assert response["description"].endswith(".")
            assert "fulfilled" not in response["description"]
    ids = [operation["operationId"] for operation in operations(document).values()]
    assert len(ids) == len(set(ids))


async def test_only_protected_routes_carry_the_security_requirement(document: Json) -> None:
    protected = {name for name, operation in operations(document).items() if operation.get("security")}

    assert protected == PROTECTED
    scheme = document["components"]["securitySchemes"]["bearer"]
    assert scheme["type"] == "oauth2"
    assert scheme["flows"]["password"]["tokenUrl"] == "auth/token"


async def test_every_failure_is_a_problem_with_an_example(document: Json) -> None:
    for name, operation in operations(document).items():
        schema = "TokenProblem" if name == "POST /auth/token" else "Problem"
        required = set(document["components"]["schemas"][schema]["required"]) | {"type"}
        assert {"title", "status", "detail", "code", "request_id"} < required
        for status, response in operation["responses"].items():
            if status >= "400":
                [(media_type, content)] = response["content"].items()
                assert media_type == "application/problem+json"
                assert content["schema"] == {"$ref": f"#/components/schemas/{schema}"}
                for example in content["examples"].values():
                    assert str(example["value"]["status"]) == status
                    assert set(example["value"]) == required | ({"errors"} if status == "422" else set())
                assert ("WWW-Authenticate" in response["headers"]) == (status == "401")
                assert ("Retry-After" in response["headers"]) == (status in {"429", "503"})


async def test_headers_and_bounds_conform_to_openapi(document: Json) -> None:
    for operation in operations(document).values():
        for response in operation["responses"].values():
            assert all("schema" in header or "$ref" in header for header in response["headers"].values())
            assert response["headers"]["X-Request-ID"] == {"$ref": "#/components/headers/X-Request-ID"}
    assert all("schema" in header for header in document["components"]["headers"].values())
    _, after, user_id, *_ = operations(document)["GET /posts"]["parameters"]
    number, position = after["schema"]["oneOf"]
    assert number["maximum"] == user_id["schema"]["maximum"] == 2**63 - 1
    assert (number["type"], number["minimum"], number["format"]) == ("integer", 0, "int64")
    assert re.fullmatch(position["pattern"], "A" * positions.LENGTH)
    assert "not for following new posts" in after["description"]
    refused = document["components"]["schemas"]["UserCreate"]["properties"]["email"]["not"]["pattern"]
    assert [address for address in ("a@b.test", "a@b.example") if re.search(refused, address)] == ["a@b.test"]


async def test_limits_examples_and_headers_are_documented(document: Json) -> None:
    schemas = document["components"]["schemas"]
    assert set(schemas["Post"]["properties"]) == {"id", "title", "content", "user_id", "date_posted"}
    assert set(schemas["UserCreate"]["required"]) == {"username", "email", "password"}
    username, email, password = (
        schemas["UserCreate"]["properties"][name] for name in ("username", "email", "password")
    )
    assert (username["minLength"], username["maxLength"]) == (1, 50)
    assert (email["format"], email["maxLength"]) == ("idn-email", 120)
    assert schemas["Post"]["properties"]["user_id"]["format"] == "int64"
    assert schemas["UserProfile"]["properties"]["id"]["format"] == "int64"
    assert (password["minLength"], password["maxLength"]) == (8, 128)
    assert schemas["PostCreate"]["properties"]["title"]["maxLength"] == 100
    assert not schemas["PostUpdate"]["required"]
    assert schemas["PostUpdate"]["properties"]["title"]["maxLength"] == 100
    assert password["format"] == schemas["TokenRequest"]["properties"]["password"]["format"] == "password"
    assert schemas["Post"]["properties"]["date_posted"]["format"] == "date-time"
    for name in ("UserCreate", "PostCreate", "PostUpdate", "User", "Post"):
        assert all("examples" in field for field in schemas[name]["properties"].values())
    described = operations(document)
    limit, after, user_id, sort, q, *of_list = described["GET /posts"]["parameters"]
    assert sort["schema"] == {"type": "string", "enum": ["id", "-id"]}
    assert (q["schema"]["minLength"], q["schema"]["maxLength"]) == (1, 200)
    assert (limit["schema"]["minimum"], limit["schema"]["maximum"], limit["schema"]["default"]) == (1, 100, 50)
    assert (after["name"], user_id["name"]) == ("after", "user_id")
    assert "Link" in described["GET /posts"]["responses"]["200"]["headers"]
    assert "Location" in described["POST /posts"]["responses"]["201"]["headers"]
    post_id, *conditions = described["GET /posts/{post_id}"]["parameters"]
    assert [header["name"] for header in conditions] == ["If-Match", "If-None-Match"]
    for name in ("PATCH /posts/{post_id}", "DELETE /posts/{post_id}"):
        assert described[name]["parameters"][1:] == conditions
    assert of_list == conditions
    assert [header["name"] for header in described["POST /posts"]["parameters"]] == ["Idempotency-Key"]
    assert "Idempotency-Replayed" in described["POST /posts"]["responses"]["201"]["headers"]
    for name, status in [("GET", "200"), ("GET", "304"), ("PATCH", "200")]:
        assert "ETag" in described[f"{name} /posts/{{post_id}}"]["responses"][status]["headers"]
    assert "content" not in described["GET /posts/{post_id}"]["responses"]["304"]
    assert (post_id["schema"]["type"], post_id["schema"]["minimum"], post_id["example"]) == ("integer", 1, 1)
    for name in ("POST /auth/register", "POST /auth/token", "GET /users/me", "GET /health/live"):
        [success] = [answer for status, answer in described[name]["responses"].items() if status < "400"]
        assert "Cache-Control" in success["headers"]


async def test_a_client_that_sends_every_default_may_search(client: httpx.AsyncClient, document: Json) -> None:
    """As the clients of openapi-python-client do."""
    parameters = operations(document)["GET /posts"]["parameters"]
    defaults = {given["name"]: given["schema"]["default"] for given in parameters if "default" in given["schema"]}

    assert defaults
    assert (await client.get("/posts", params={"q": "word", **defaults})).status_code == 200


def example_request(document: Json, name: str) -> Json:
    """The request that Swagger UI fills in for an operation, as arguments of httpx."""
    method, path = name.split()
    operation = operations(document)[name]
    filled: dict[str, dict[str, str]] = {"path": {}, "query": {}, "header": {}}
    for given in operation.get("parameters", []):
        if (example := given.get("example", given["schema"].get("default"))) is not None:
            filled[given["in"]][given["name"]] = str(example)
    body: Json = {}
    for media_type, content in operation.get("requestBody", {"content": {}})["content"].items():
        schema = document["components"]["schemas"][content["schema"]["$ref"].rpartition("/")[2]]
        fields = {
            # Without an example, Swagger UI writes any text.
            key: field["examples"][0] if "examples" in field else field.get("default", "any text")
            for key, field in schema["properties"].items()
        }
        body = {"json" if media_type == "application/json" else "data": fields}
    url = path.format_map(filled["path"])
    return {"method": method, "url": url, "params": filled["query"], "headers": filled["header"]} | body


async def test_the_examples_work_one_after_the_other(client: httpx.AsyncClient, document: Json) -> None:
    statuses = {
        "POST /auth/register": 201,
        "POST /posts": 201,
        "DELETE /posts/{post_id}": 204,
        "DELETE /users/me/sessions/{session_id}": 404,  # no session has the id of the example
        "DELETE /users/me/sessions": 204,
        "POST /users/me/password": 204,
        "POST /users/me/deletion": 204,
    }
    # The second one follows the end of all sessions.
    log_in_before = {"GET /users/me", "DELETE /users/me/sessions/{session_id}"}
    headers: dict[str, str] = {}
    responses = {}

    for name in EXPECTED:
        if name in log_in_before:
            token = await login(client, "maria", "correct horse battery")
            headers = {"Authorization": f"Bearer {token}"}
        request = example_request(document, name)
        if name in PROTECTED:
            request["headers"] |= headers
        responses[name] = await client.request(**request)

    assert {name: response.status_code for name, response in responses.items()} == dict.fromkeys(
        EXPECTED, 200
    ) | statuses


async def test_a_public_route_says_that_it_needs_no_token(document: Json) -> None:
    """An absent requirement may also have been forgotten, as Redocly's linter says."""
    public = {name for name, operation in operations(document).items() if operation["security"] == []}

    assert public == EXPECTED.keys() - PROTECTED


async def test_every_time_of_a_session_has_its_own_description(document: Json) -> None:
    fields = document["components"]["schemas"]["Session"]["properties"]

    assert {name: field["description"] for name, field in fields.items() if field.get("format") == "date-time"} == {
        "created_at": "The login.",
        "last_used_at": "The last login or refresh.",
        "expires_at": "The end of the session without another refresh.",
    }


async def test_the_pattern_of_a_name_refuses_the_characters_that_the_service_refuses(document: Json) -> None:
    pattern = re.compile(document["components"]["schemas"]["UserCreate"]["properties"]["username"]["pattern"])
    for code in (*range(0xD800), *range(0xE000, 0x10000)):
        character = chr(code)
        hidden = unicodedata.category(character) in {"Cc", "Cf"}

        assert bool(pattern.fullmatch(f"a{character}b")) != hidden, hex(code)
        assert bool(pattern.fullmatch(f"a{character}")) != (hidden or character.isspace()), hex(code)


async def test_an_export_has_the_fields_that_the_document_names(document: Json, alice: Person) -> None:
    described = operations(document)["GET /users/me/export"]["responses"]["200"]["content"]
    assert described == {"application/json": {"schema": {"$ref": "#/components/schemas/Export"}}}
    schema = document["components"]["schemas"]["Export"]

    exported = (await alice.client.get("/users/me/export", headers=alice.headers)).json()

    assert exported.keys() == schema["properties"].keys() == set(schema["required"])
    for name in ("sessions", "known_addresses"):
        item = document["components"]["schemas"][schema["properties"][name]["items"]["$ref"].rpartition("/")[2]]
        assert exported[name]
        assert all(one.keys() == item["properties"].keys() for one in exported[name])


async def test_the_login_is_described_as_a_form(document: Json) -> None:
    content = operations(document)["POST /auth/token"]["requestBody"]["content"]

    assert content["application/x-www-form-urlencoded"]["schema"] == {"$ref": "#/components/schemas/TokenRequest"}


async def test_every_reference_resolves(document: Json) -> None:
    for reference in references(document):
        node: Any = document
        for step in reference.removeprefix("#/").split("/"):
            node = node[step]
        assert node


async def test_operations_come_in_the_order_of_a_session(document: Json) -> None:
    tags = [tag["name"] for tag in document["tags"]]
    found = operations(document)

    # As the page shows them: by tag, and those of a tag in the order of the document.
    assert sorted(found, key=lambda name: tags.index(found[name]["tags"][0])) == list(EXPECTED)


async def test_every_422_names_the_fields_of_its_own_operation(document: Json) -> None:
    named = {
        name + ", key" * code.startswith("key_"): [fault["pointer"] for fault in example["value"]["errors"]]
        for name, operation in operations(document).items()
        if "422" in operation["responses"]
        for code, example in operation["responses"]["422"]["content"]["application/problem+json"]["examples"].items()
    }

    assert named == {
        "POST /auth/register": ["/username", "/email", "/password"],
        "POST /auth/token": ["/username", "/password"],
        "POST /auth/revoke": ["/token"],
        "PATCH /users/me": ["/username", "/email"],
        "POST /users/me/password": ["/new_password"],
        "POST /users/me/deletion": ["/current_password"],
        "POST /posts": ["/title", "/content"],
        "POST /posts, key": [""],
        "GET /posts": ["/limit", "/user_id", "/sort", "/after"],
        "PATCH /posts/{post_id}": ["/title", "/content"],
    }


def test_the_document_contains_every_route() -> None:
    served = {
        f"{method} {route.path_format}"
        for route in create_app(settings_of()).routes
        if isinstance(route, HTTPRoute)
        for method, (handler, _) in route.route_handler_map.items()
        if method not in {"HEAD", "OPTIONS"} and handler.resolve_include_in_schema()
    }

    assert served == set(EXPECTED)


async def test_the_page_uses_no_other_origin(client: httpx.AsyncClient) -> None:
    page = await client.get("/docs")

    assert page.status_code == 200
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert not re.search(r"https?:|\*", policy)
    linked = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert len(linked) >= 5
    for reference in linked:
        assert not reference.startswith("/")
        assert (await client.get(page.url.join(reference))).status_code == 200
    assert "http" not in page.text


async def test_the_files_of_the_page_have_the_right_media_types(client: httpx.AsyncClient) -> None:
    script, style = await client.get("/docs/swagger-ui-bundle.js"), await client.get("/docs/swagger-ui.css")

    assert script.headers["content-type"] == "text/javascript; charset=utf-8"
    assert style.headers["content-type"] == "text/css; charset=utf-8"
    assert len(script.content) > 500_000
