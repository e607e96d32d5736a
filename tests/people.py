"""The API's verbs as its users would say them."""

from typing import Any, Self

import httpx
from msgspec import Struct

Json = dict[str, Any]


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


async def is_ready(client: httpx.AsyncClient) -> bool:
    return (await client.get("/health/ready")).status_code == 200


def assert_problem(response: httpx.Response, status: int, code: str, detail: str | None = None) -> None:
    """The one error body of RFC 9457, with all its fields and no others."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert problem["type"] == "about:blank"
    assert problem["title"] == httpx.codes(status).name.replace("_", " ").title() or problem["title"]
    assert problem["status"] == status
    assert problem["code"] == code
    assert detail is None or problem["detail"] == detail
    assert problem["request_id"] == response.headers["x-request-id"]
    expected = {"type", "title", "status", "detail", "code", "request_id"} | ({"errors"} if status == 422 else set())
    if (response.request.method, response.request.url.path.rstrip("/")) == ("POST", "/auth/token"):
        expected |= {"error", "error_description"}
    assert set(problem) == expected


def pointers(response: httpx.Response) -> list[str]:
    """Where a 422 found faults."""
    return [fault["pointer"] for fault in response.json()["errors"]]
