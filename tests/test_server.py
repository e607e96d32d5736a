"""How the server writes."""

import asyncio
from typing import Any

from service.protocol import GatheredWrites


class Wire(asyncio.Transport):
    """Keeps what reaches the socket, one entry a system call."""

    def __init__(self) -> None:
        super().__init__({"peername": ("127.0.0.1", 1)})
        self.calls: list[bytes | str] = []

    def write(self, data: Any) -> None:
        self.calls.append(bytes(data))

    def close(self) -> None:
        self.calls.append("closed")

    def is_closing(self) -> bool:
        return "closed" in self.calls


async def test_what_is_written_in_one_turn_is_one_call() -> None:
    wire = Wire()
    transport = GatheredWrites(wire, asyncio.get_running_loop())

    transport.write(b"head")
    transport.write(b"body")
    before = list(wire.calls)
    await asyncio.sleep(0)
    transport.write(b"next")
    await asyncio.sleep(0)

    assert before == []
    assert wire.calls == [b"headbody", b"next"]


async def test_nothing_is_lost_at_the_end() -> None:
    wire = Wire()
    transport = GatheredWrites(wire, asyncio.get_running_loop())

    transport.write(b"last words")
    transport.close()
    await asyncio.sleep(0)

    assert wire.calls == [b"last words", "closed"]
    assert transport.is_closing()


async def test_the_rest_is_the_transport_s_own() -> None:
    transport = GatheredWrites(Wire(), asyncio.get_running_loop())

    assert transport.get_extra_info("peername") == ("127.0.0.1", 1)
