"""Checks, before anything is measured, that all servers return the same responses."""

import json
import re
from collections.abc import Sequence
from typing import Any, Final

import httpx

from tests.bench.routes import Route
from tests.bench.servers import Server
from tests.bench.wrk import Load

SAMPLE: Final = 8

# JavaScript's times have milliseconds.
BELOW_A_MILLISECOND: Final = re.compile(r"(?<=\.\d{3})\d+(?=Z)")


class ResponsesDiffer(Exception):
    """A server returns another response than the first one, so its figures would be meaningless."""


def compare(servers: Sequence[Server], route: Route) -> None:
    """Request the same sample of a route from every server. Raises ``ResponsesDiffer``."""
    numbers = route.load.numbers
    for number in numbers[:: max(1, len(numbers) // SAMPLE)]:
        expected = fetch(servers[0], route.load, number)
        for server in servers[1:]:
            if (body := fetch(server, route.load, number)) != expected:
                raise ResponsesDiffer(f"{route.name}: {server.kind.label} returns {body}\nand not {expected}")


def fetch(server: Server, load: Load, number: int) -> Any:
    """The body of one response, without the parts that differ between requests."""
    headers = {"Content-Type": "application/json"} if load.body else {}
    if load.users:
        headers["Authorization"] = f"Bearer {server.token_of(load.user_of(number))}"
    url, content = server.address + _fill(load.path, number), _fill(load.body, number)
    response = httpx.request(load.method, url, content=content, headers=headers, trust_env=False)
    if response.status_code != (201 if load.method == "POST" else 200):
        raise ResponsesDiffer(f"{server.kind.label}: {load.method} {url}: {response.status_code} {response.text}")
    body = json.loads(BELOW_A_MILLISECOND.sub("", response.text))
    if load.method == "POST":
        body |= {"id": "a new id", "date_posted": "now"}
    if load.path == "/":
        body["message"] = "a greeting"  # another checkout may have another one
    return body


def _fill(template: str, number: int) -> str:
    return template.replace("%d", str(number))
