"""Whether all servers answer alike, asked before anything is measured."""

import json
import re
from collections.abc import Sequence
from typing import Any, Final

import httpx

from tests.bench.routes import Route
from tests.bench.servers import Server, token_of
from tests.bench.wrk import Load

SAMPLE: Final = 8

# JavaScript's times end at the millisecond.
FINER_THAN_A_MILLISECOND: Final = re.compile(r"(?<=\.\d{3})\d+(?=Z)")


class AnswersDiffer(Exception):
    """A server answers otherwise than the first one, so its figures would mean nothing."""


def compare(servers: Sequence[Server], route: Route) -> None:
    """Ask every server for the same sample of a route. Raises ``AnswersDiffer``."""
    numbers = route.load.numbers
    for number in numbers[:: max(1, len(numbers) // SAMPLE)]:
        expected = ask(servers[0], route.load, number)
        for server in servers[1:]:
            if (answer := ask(server, route.load, number)) != expected:
                raise AnswersDiffer(f"{route.name}: {server.kind.label} answers {answer}\nand not {expected}")


def ask(server: Server, load: Load, number: int) -> Any:
    """The body of one answer, without what differs from one request to the next."""
    headers = {"Content-Type": "application/json"} if load.body else {}
    if load.users:
        headers["Authorization"] = f"Bearer {token_of(load.user_of(number))}"
    url, body = server.address + _of(load.path, number), _of(load.body, number)
    response = httpx.request(load.method, url, content=body, headers=headers, trust_env=False)
    if response.status_code != (201 if load.method == "POST" else 200):
        raise AnswersDiffer(f"{server.kind.label}: {load.method} {url}: {response.status_code} {response.text}")
    answer = json.loads(FINER_THAN_A_MILLISECOND.sub("", response.text))
    if load.method == "POST":
        answer |= {"id": "a new one", "date_posted": "now"}
    return answer


def _of(template: str, number: int) -> str:
    return template.replace("%d", str(number))
