"""The random behavior of a client on one connection, drawn from a seed."""

from itertools import accumulate, pairwise
from random import Random
from typing import Final

from msgspec import Struct

from tests.connections.messages import Account, Message, MessageFactory

NEVER: Final = 1_000_000.0  # a pause in reading that lasts until the server has closed the connection

# How often a client closes the connection when it has all responses, waits until the server closes it, half-closes it
# after its last request, closes it without reading, or resets it.
ENDINGS: Final = {"close": 30, "wait": 25, "half": 20, "leave": 5, "reset": 20}


class Segment(Struct):
    """Bytes up to ``end``, which are sent at once after the last pause."""

    end: int
    pause: float = 0  # seconds afterwards
    waits: bool = False  # afterwards, for 100 Continue or a response


class History(Struct):
    """``label`` is the seed and the number within it; the bytes are those of ``messages`` up to the last segment."""

    label: str
    messages: list[Message]
    segments: list[Segment]
    ending: str
    stops_at_close: bool  # sends nothing more after a response that announces the close
    small_buffer: bool
    # Pauses in reading: after how many bytes of responses, and for how many seconds.
    stalls: list[tuple[int, float]]
    linger: float  # seconds between the last byte and a reset
    holds: bool  # keeps its socket open when the server has closed the connection

    @property
    def data(self) -> bytes:
        return b"".join(message.data for message in self.messages)

    @property
    def is_complete(self) -> bool:
        return self.segments[-1:] != [] and self.segments[-1].end == len(self.data)

    @property
    def pauses(self) -> float:
        """Seconds of all pauses."""
        return sum(segment.pause for segment in self.segments)

    def spans(self) -> list[tuple[int, int]]:
        """Where each message begins and ends."""
        ends = list(accumulate((len(message.data) for message in self.messages), initial=0))
        return list(pairwise(ends))

    def describe(self) -> str:
        sizes, last = [], 0
        for segment in self.segments:
            pause = f"+{segment.pause:.2f}s" * (segment.pause > 0) + "+100" * segment.waits
            sizes.append(f"{segment.end - last}{pause}")
            last = segment.end
        if len(sizes) > 60:
            sizes[30:-30] = ["…"]
        lines = [f"history {self.label}: ending={self.ending} stalls={self.stalls} small_buffer={self.small_buffer}"]
        lines += [f"  {span} {message}" for span, message in zip(self.spans(), self.messages, strict=True)]
        return "\n".join([*lines, f"  segments: {' '.join(sizes)}"])


def draw(seed: int, number: int, account: Account) -> History:
    """The same history for the same seed and number; only the account's token may differ."""
    random = Random(f"{seed}/{number}")  # noqa: S311 - no secret
    factory = MessageFactory(random, seed, number, account)
    stalls: list[tuple[int, float]] = []
    if random.random() < 0.07:
        messages = [factory.make_large() for _ in range(random.choice([2, 6, 20]))]
        messages += [factory.make(breakable=False) for _ in range(random.randint(0, 2))]
        # Far from each other, because the kernel alone takes some megabytes.
        places = accumulate(random.choice([random.randint(0, 2_000_000), 6_000_000]) for _ in range(3))
        stalls = [(place, random.choice([0.3, 1, 1.5, 1.5, NEVER])) for place in places]
    elif random.random() < 0.02:
        messages = [factory.make_small() for _ in range(500)]
    else:
        messages = [factory.make() for _ in range(random.choice([1, 1, 2, 3, 4, 5, 10, 20]))]
    history = History(
        label=factory.label,
        messages=messages,
        segments=[],
        ending=random.choices(list(ENDINGS), list(ENDINGS.values()))[0],
        stops_at_close=random.random() < 0.5,
        small_buffer=bool(stalls) or random.random() < 0.1,
        stalls=stalls,
        linger=random.choice([0, 0, 0.001, 0.01, 0.1, 1]),
        holds=random.random() < 0.1,
    )
    end = len(history.data)
    if random.random() < 0.12 or (history.ending == "reset" and random.random() < 0.5):
        end = random.randint(0, end)  # the last request remains incomplete
    history.segments = _pause(random, _split(random, history, end))
    return history


def _split(random: Random, history: History, end: int) -> list[Segment]:
    cuts = {end}
    heads = [start + message.head_size for (start, _), message in zip(history.spans(), history.messages, strict=True)]
    ends = [stop for _, stop in history.spans()]
    match random.choice(["one", "messages", "some", "many", "edges", "bytes"]):
        case "messages":
            cuts.update(ends)
        case "some":
            cuts.update(random.randint(0, end) for _ in range(random.randint(1, 5)))
        case "many":
            cuts.update(random.randint(0, end) for _ in range(random.randint(10, 200)))
        case "edges":  # near the ends of heads and messages
            cuts.update(at + random.randint(-3, 3) for at in heads + ends)
        case "bytes":
            first = random.choice([0, random.randint(0, end)])
            cuts.update(range(first, min(end, first + 1000)))
    expecting = [head for head, message in zip(heads, history.messages, strict=True) if message.expects]
    waits = {head for head in expecting if random.random() < 0.7}
    return [Segment(cut, waits=cut in waits) for cut in sorted(cuts | waits) if 0 < cut <= end]


def _pause(random: Random, segments: list[Segment]) -> list[Segment]:
    for segment in segments:
        if random.random() < 0.3:
            segment.pause = random.choice([0, 0, 0.0001, 0.001, 0.01])
    if segments and random.random() < 0.35:
        for _ in range(random.randint(1, 2)):
            random.choice(segments).pause = _draw_pause(random)
    before = [Segment(0, pause=_draw_pause(random))] if random.random() < 0.2 else []
    return before + segments


def _draw_pause(random: Random) -> float:
    """Any pause, or one that ends near the timeouts of 2 and 3 seconds."""
    return random.choice([random.uniform(0, 3), random.uniform(1.9, 2.6), random.uniform(2.9, 3.6)])
