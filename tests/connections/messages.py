"""The requests of a history, and the statuses that each may get."""

import json
from collections.abc import Callable
from random import Random
from typing import Final
from urllib.parse import urlencode

from msgspec import Struct, field

PUBLIC_POSTS: Final = 100  # with the ids from 1
PUBLIC_CONTENT: Final = "x" * 10_000  # a list of all of them is 1 MB
FIRST_OWN_POST: Final = 1_000_000  # from here on each post is changed or deleted by one request

FORM: Final = "Content-Type: application/x-www-form-urlencoded"


class Account(Struct, frozen=True):
    """The author of the posts."""

    username: str
    password: str
    token: str


class Message(Struct):
    """One request. ``statuses`` are those of a service without a fault."""

    kind: str
    method: str
    statuses: set[int]
    data: bytes = b""
    head_size: int = 0
    request_id: str = ""
    marker: str = ""  # the title that it writes
    post_id: int = 0  # the post that it reads, changes or deletes
    features: list[str] = field(default_factory=list)
    closes: bool = False  # it asks for the close of the connection
    broken: bool = False  # no server can accept it: an error response ends the connection
    early: bool = False  # its response may come before its body has arrived
    expects: bool = False  # 100 Continue

    def __str__(self) -> str:
        return " ".join([self.kind, *self.features])


class Draft(Struct):
    """A request before it is encoded."""

    kind: str
    line: tuple[str, str]
    statuses: set[int]
    fields: list[str] = field(default_factory=list)
    body: bytes | None = None
    marker: str = ""
    post_id: int = 0
    early: bool = False


class MessageFactory:
    """Makes the requests of one connection. Titles and request ids contain the seed and the number."""

    def __init__(self, random: Random, seed: int, number: int, account: Account) -> None:
        self.random = random
        self.seed = seed
        self.number = number
        self.label = f"{seed}-{number}"
        self.account = account
        self.index = 0

    def make(self, *, breakable: bool = True) -> Message:
        self.index += 1
        [draft] = self.random.choices(list(KINDS), list(KINDS.values()))
        return self._finish(draft(self), breakable=breakable)

    def make_small(self) -> Message:
        self.index += 1
        return self._finish(self.root(), breakable=False)

    def make_large(self) -> Message:
        """A request with a response of 1 MB."""
        self.index += 1
        return self._finish(Draft("large", ("GET", "/posts?limit=100"), {200}), breakable=False)

    @property
    def _token(self) -> str:
        return f"Authorization: Bearer {self.account.token}"

    def _chance(self, percent: float) -> bool:
        return self.random.random() * 100 < percent

    # The kinds of requests.

    def root(self) -> Draft:
        return Draft("GET /", ("GET", "/"), {200})

    def live(self) -> Draft:
        return Draft("live", ("GET", "/health/live"), {200})

    def head(self) -> Draft:
        return Draft("HEAD", ("HEAD", self.random.choice(["/", "/posts/1", "/posts?limit=3"])), {200})

    def read(self) -> Draft:
        post_id = self.random.randint(1, PUBLIC_POSTS)
        return Draft("read", ("GET", f"/posts/{post_id}"), {200}, post_id=post_id)

    def missing(self) -> Draft:
        return Draft("missing", ("GET", "/posts/999999999"), {404})

    def read_page(self) -> Draft:
        return Draft("list", ("GET", "/posts?limit=3"), {200})

    def _post(self, *fields: str, statuses: frozenset[int] = frozenset({201})) -> Draft:
        marker, body = self._content()
        return Draft("POST", ("POST", "/posts"), set(statuses), list(fields), body, marker)

    def _content(self) -> tuple[str, bytes]:
        """A unique title, and a body with it."""
        marker = f"{self.label}.{self.index}"
        content = "c" * self.random.choice([1, 10, 1000, 50_000, 300_000])
        return marker, json.dumps({"title": marker, "content": content}).encode()

    def publish(self) -> Draft:
        return self._post(self._token)

    def publish_without_token(self) -> Draft:
        draft = self._post(statuses=frozenset({401}))
        draft.kind, draft.early = "POST without a token", True
        return draft

    def publish_too_much(self) -> Draft:
        draft = self._post(self._token, statuses=frozenset({413}))
        size = self.random.randint(1_050_000, 1_500_000)
        draft.kind, draft.early, draft.body = "POST over 1 MiB", True, (draft.body or b"").ljust(size)
        return draft

    def publish_nothing(self) -> Draft:
        return Draft("POST of no JSON", ("POST", "/posts"), {400}, [self._token], b'{"title": ')

    def _own(self) -> int:
        return FIRST_OWN_POST + (self.seed * 10_000 + self.number) * 1000 + self.index

    def patch(self) -> Draft:
        post_id = self._own()
        marker, body = self._content()
        return Draft("PATCH", ("PATCH", f"/posts/{post_id}"), {200}, [self._token], body, marker, post_id)

    def delete(self) -> Draft:
        post_id = self._own()
        return Draft("DELETE", ("DELETE", f"/posts/{post_id}"), {204}, [self._token], post_id=post_id)

    def log_in(self) -> Draft:
        form = urlencode({"username": self.account.username, "password": self.account.password})
        return Draft("login", ("POST", "/auth/token"), {200}, [FORM], form.encode())

    def body_for_nothing(self) -> Draft:
        return Draft("GET with a body", ("GET", "/"), {200}, body=b"{}" * self.random.choice([1, 3000]), early=True)

    # From a draft to bytes.

    def _finish(self, draft: Draft, *, breakable: bool) -> Message:
        request_id = f"{self.label}.{self.index}"
        message = Message(
            draft.kind,
            draft.line[0],
            draft.statuses,
            request_id=request_id,
            marker=draft.marker,
            post_id=draft.post_id,
            early=draft.early,
        )
        version, fields = self._vary_head(draft, message)
        body = self._frame(draft, message, version, fields)
        lines = [f"{draft.line[0]} {draft.line[1]} HTTP/{version}", f"X-Request-ID: {request_id}", *fields]
        if breakable and self._chance(5):
            body = self._break(lines, body, message)
        head = "\r\n".join([*lines, "", ""]).encode()
        if self._chance(1):
            head = b"\r\n" + head
        message.data, message.head_size = head + body, len(head)
        return message

    def _vary_head(self, draft: Draft, message: Message) -> tuple[str, list[str]]:
        version, fields, random = "1.1", ["Host: model", *draft.fields], self.random
        method, target = draft.line
        if self._chance(5):
            message.features.append("absolute")
            draft.line = method, "http://model" + ("" if target == "/" and self._chance(50) else target)
        if self._chance(5):
            message.features.append("upgrade")
            fields += ["Connection: Upgrade", f"Upgrade: {random.choice(['h2c', 'websocket'])}"]
        if self._chance(3):
            message.features.append("40 KB of head")
            fields.append("X-Padding: " + "p" * 40_000)
        if self._chance(3):
            message.features.append("HTTP/1.0")
            version, message.closes = "1.0", True
            if self._chance(50):
                fields.append("Connection: keep-alive")
        elif self._chance(3):
            message.features.append("close")
            fields.append("Connection: close")
            message.closes = True
        return version, fields

    def _frame(self, draft: Draft, message: Message, version: str, fields: list[str]) -> bytes:
        """The body as it is sent, and the fields that belong to it."""
        if (body := draft.body) is None:
            return b""
        if self._chance(20):
            message.features.append("expect")
            message.expects = version == "1.1"
            fields.append("Expect: 100-continue")
        if version == "1.0" or self._chance(50):
            fields.append(f"Content-Length: {len(body)}")
            return body
        message.features.append("chunked")
        fields.append("Transfer-Encoding: chunked")
        return self._chunks(body) + b"0\r\n" + self._trailers(message) + b"\r\n"

    def _chunks(self, body: bytes) -> bytes:
        pieces: list[bytes] = []
        rest = body
        while rest:
            size = self.random.choice([1, 2, 10, 1000, 70_000, len(rest)]) if len(pieces) < 50 else len(rest)
            piece, rest = rest[:size], rest[size:]
            extension = self.random.choice(["", "", "", ";name", ';name="a value"', ";" + "e" * 10_000])
            pieces.append(f"{len(piece):x}{extension}\r\n".encode() + piece + b"\r\n")
        return b"".join(pieces)

    def _trailers(self, message: Message) -> bytes:
        fields = [self._token, "X-Request-ID: from-a-trailer", "Host: other", "Expect: 100-continue", "X: y"]
        if message.statuses == {401}:
            chosen = self._token
        elif self._chance(40):
            chosen = self.random.choice(fields)
        else:
            return b""
        message.features.append(f"trailer {chosen[:14]}")
        return f"{chosen}\r\n".encode()

    def _break(self, lines: list[str], body: bytes, message: Message) -> bytes:
        message.broken = True
        in_body = "Transfer-Encoding: chunked" in lines and self._chance(60)
        faults = BODY_FAULTS if in_body else HEAD_FAULTS
        name = self.random.choice(list(faults))
        message.features.append(f"broken: {name}")
        status = 431 if name.startswith("long") else 400
        message.statuses = {status} | (message.statuses if in_body and message.early else set())
        message.early = in_body and message.early
        if in_body:
            return BODY_FAULTS[name]
        message.expects = False
        lines[:] = HEAD_FAULTS[name](lines)
        return body


Draw = Callable[[MessageFactory], Draft]

# How often each kind is drawn.
KINDS: Final[dict[Draw, float]] = {
    MessageFactory.root: 10,
    MessageFactory.live: 3,
    MessageFactory.head: 5,
    MessageFactory.read: 10,
    MessageFactory.missing: 2,
    MessageFactory.read_page: 3,
    MessageFactory.publish: 20,
    MessageFactory.publish_without_token: 8,
    MessageFactory.publish_too_much: 2,
    MessageFactory.publish_nothing: 2,
    MessageFactory.patch: 10,
    MessageFactory.delete: 6,
    MessageFactory.log_in: 5,
    MessageFactory.body_for_nothing: 4,
}

Y: Final = "y" * 100_000
HEAD_FAULTS: Final[dict[str, Callable[[list[str]], list[str]]]] = {
    "no HTTP": lambda _: ["nonsense"],
    "no Host": lambda lines: [lines[0].replace("1.0", "1.1"), *(line for line in lines[1:] if line[:5] != "Host:")],
    "two Hosts": lambda lines: [*lines, "Host: another"],
    "space before a colon": lambda lines: [*lines, "X : y"],
    "NUL in a field": lambda lines: [*lines, "X: a\x00b"],
    "method in lower case": lambda lines: [lines[0].lower().replace("http/", "HTTP/"), *lines[1:]],
    "length and chunked": lambda lines: [*lines, "Content-Length: 3", "Transfer-Encoding: chunked"],
    "long field": lambda lines: [*lines, f"X: {Y}"],
    "long target": lambda lines: [lines[0].replace(" HTTP/", f"/{Y} HTTP/"), *lines[1:]],
}
CHUNK: Final = b"2\r\n{}\r\n"
TRAILERS: Final = CHUNK + b"0\r\n"
BODY_FAULTS: Final[dict[str, bytes]] = {
    "size is no number": b"zz\r\n{}\r\n",
    "chunk beyond its size": b"1\r\n{}\r\n0\r\n\r\n",
    "bare LF": b"2\n{}\n0\n\n",
    "trailer without a colon": TRAILERS + b"X\r\n\r\n",
    "Connection in a trailer": TRAILERS + b"Connection: close\r\n\r\n",
    "Content-Length in a trailer": TRAILERS + b"Content-Length: 5\r\n\r\n",
    "long extension": CHUNK + b"1;" + b"e" * len(Y) + b"\r\n \r\n0\r\n\r\n",
    "long trailer": TRAILERS + f"X: {Y}\r\n\r\n".encode(),
    "long list of trailers": TRAILERS + b"X: y\r\n" * 20_000 + b"\r\n",
    "long trailer of 8 MB": TRAILERS + f"X: {Y * 80}\r\n\r\n".encode(),
}
