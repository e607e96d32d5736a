"""``just seed``: a few users and posts, through the API of the service that runs on this machine."""

import os
from typing import Any, Final

import httpx

from service.development.address import url

PASSWORD: Final = "correct horse battery staple"  # noqa: S105 - printed, and for development only

CONFLICT: Final = 409
UNAUTHORIZED: Final = 401

POSTS: Final = {
    "ada": {
        "Notes on the Analytical Engine": "It weaves algebraic patterns, as a loom weaves flowers and leaves.",
        "Bernoulli numbers": "A table of operations, step by step, with every intermediate result.",
    },
    "grace": {
        "A moth in relay 70": "It is taped into the logbook, with the time of its discovery.",
        "A nanosecond": "Thirty centimetres of wire: the way of light in that time.",
    },
    "edsger": {"On a shortest path": "Found in twenty minutes, without pencil and paper, over a cup of coffee."},
}


def main() -> None:
    address = url(os.environ.get("HOST", "").strip() or "127.0.0.1", os.environ.get("PORT", "").strip() or "8000")
    try:
        with httpx.Client(base_url=address, timeout=30, trust_env=False) as client:
            for username, posts in POSTS.items():
                print(f"{username}: {_seed(client, username, posts)}")  # noqa: T201 - for the person at the terminal
    except httpx.TransportError as error:
        raise SystemExit(
            f"No service answers at {address} ({error}): run `just up` or `just compose-up` first"
        ) from error
    print(f"Their password is: {PASSWORD}")  # noqa: T201


def _seed(client: httpx.Client, username: str, posts: dict[str, str]) -> str:
    """Create what does not exist yet, and return what that was."""
    account = {"username": username, "email": f"{username}@example.com", "password": PASSWORD}
    is_new = _json(client.post("/auth/register", json=account), CONFLICT) is not None
    token = _json(client.post("/auth/token", data={"username": username, "password": PASSWORD}), UNAUTHORIZED)
    if token is None:
        return "exists with another password, nothing is changed"
    headers = {"Authorization": f"Bearer {token['access_token']}"}
    user = _json(client.get(f"/users/{_json(client.get('/users/me', headers=headers))['id']}"))
    existing = {post["title"] for post in user["posts"]}
    missing = {title: content for title, content in posts.items() if title not in existing}
    for title, content in missing.items():
        _json(client.post("/posts", json={"title": title, "content": content}, headers=headers))
    return f"{'created' if is_new else 'exists'}, {len(missing)} posts created, {len(posts) - len(missing)} exist"


def _json(response: httpx.Response, expected: int | None = None) -> Any:
    """The body of a success; ``None`` if the status is ``expected``. Any other error ends the program."""
    if response.status_code == expected:
        return None
    if response.is_error:
        raise SystemExit(f"{response.request.method} {response.url}: {response.status_code} {response.text}")
    return response.json()


if __name__ == "__main__":
    main()
