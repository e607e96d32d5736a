"""Test users, with the API's operations as methods."""

from typing import Any, Self

import httpx
from msgspec import Struct

Json = dict[str, Any]

# RFC 9110, section 15; RFC 6585 for the last two of the 4xx.
REASON_PHRASES = {
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    408: "Request Timeout",
    409: "Conflict",
    412: "Precondition Failed",
    413: "Content Too Large",
    415: "Unsupported Media Type",
    422: "Unprocessable Content",
    429: "Too Many Requests",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    503: "Service Unavailable",
}


class Person(Struct):
    """A registered user with an access token."""

    client: httpx.AsyncClient
    id: int
    username: str
    email: str
    password: str
    token: str

    @classmethod
    async def register(cls, client: httpx.AsyncClient, username: str) -> Self:
        email, password = f"{username}@example.com", f"the password of {username}"
        body = {"username": username, "email": email, "password": password}
        registered = await client.post("/auth/register", json=body)
        assert registered.status_code == 201, registered.text
        user_id = registered.json()["id"]
        return cls(client, user_id, username, email, password, await login(client, username, password))

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"}

    @property
    def account(self) -> Json:
        return {"id": self.id, "username": self.username, "email": self.email}

    async def publish(self, title: str = "A title", content: str = "Some content") -> Json:
        response = await self.client.post("/posts", json={"title": title, "content": content}, headers=self.headers)
        assert response.status_code == 201, response.text
        post: Json = response.json()
        return post

    async def read(self, post_id: int) -> Json:
        response = await self.client.get(f"/posts/{post_id}")
        assert response.status_code == 200, response.text
        post: Json = response.json()
        return post


async def login(client: httpx.AsyncClient, username: str, password: str) -> str:
    response = await client.post("/auth/token", data={"username": username, "password": password})
    assert response.status_code == 200, response.text
    token: str = response.json()["access_token"]
    return token


class Tokens(Struct):
    """The tokens of a session."""

    client: httpx.AsyncClient
    access: str
    refresh: str

    @classmethod
    async def log_in(cls, person: Person, user_agent: str = "a browser") -> Self:
        form = {"username": person.username, "password": person.password}
        return cls.received(
            person.client,
            await person.client.post("/auth/token", data=form, headers={"User-Agent": user_agent}),
        )

    @classmethod
    def received(cls, client: httpx.AsyncClient, response: httpx.Response) -> Self:
        assert response.status_code == 200, response.text
        return cls(client, response.json()["access_token"], response.json()["refresh_token"])

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.access}"}

    async def refreshed(self) -> Self:
        return self.received(self.client, await refresh(self.client, self.refresh))

    async def are_valid(self) -> bool:
        """Whether the access token still gives access."""
        return (await self.client.get("/users/me", headers=self.headers)).status_code == 200

    async def sessions(self) -> list[Json]:
        response = await self.client.get("/users/me/sessions", headers=self.headers)
        assert response.status_code == 200, response.text
        listed: list[Json] = response.json()
        return listed


async def refresh(client: httpx.AsyncClient, token: str) -> httpx.Response:
    return await client.post("/auth/token", data={"grant_type": "refresh_token", "refresh_token": token})


async def is_ready(client: httpx.AsyncClient) -> bool:
    return (await client.get("/health/ready")).status_code == 200


def assert_problem(response: httpx.Response, status: int, code: str, detail: str | None = None) -> None:
    """Check a response for the problem body of RFC 9457, with all its fields and no others."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert problem["type"] == "about:blank"
    assert problem["title"] == REASON_PHRASES[status]
    assert problem["status"] == status
    assert problem["code"] == code
    assert detail is None or problem["detail"] == detail
    assert problem["request_id"] == response.headers["x-request-id"]
    expected = {"type", "title", "status", "detail", "code", "request_id"} | ({"errors"} if status == 422 else set())
    if (response.request.method, response.request.url.path.rstrip("/")) == ("POST", "/auth/token"):
        expected |= {"error", "error_description"}
    assert set(problem) == expected


def pointers(response: httpx.Response) -> list[str]:
    """The pointers of a 422: the invalid fields."""
    return [fault["pointer"] for fault in response.json()["errors"]]


def next_page(response: httpx.Response) -> httpx.URL | None:
    """Where the ``Link`` of a response leads."""
    reference = response.links.get("next", {}).get("url")
    return response.url.join(reference) if reference else None
