"""The client of ``tests/fork_server.py``."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

REPOSITORY = Path(__file__).parent.parent


class Output(asyncio.StreamReaderProtocol):
    def eof_received(self) -> bool:
        super().eof_received()
        return False  # close the pipe


class Fork(Process):
    """A process of the fork server, as far as tests use it."""

    def __init__(self, pid: int, stdout: asyncio.StreamReader, exited: asyncio.Future[int]) -> None:
        self.pid = pid
        self.stdout = stdout
        self._exited = exited

    @property
    def returncode(self) -> int | None:
        return self._exited.result() if self._exited.done() else None

    async def wait(self) -> int:
        return await asyncio.shield(self._exited)

    async def communicate(self, _: object = None) -> tuple[bytes, bytes]:
        assert self.stdout
        output = await self.stdout.read()
        await self.wait()
        return output, b""

    def send_signal(self, number: int) -> None:
        if self.returncode is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class ForkServer:
    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._forking = asyncio.Lock()
        self._forked: asyncio.Future[tuple[int, asyncio.Future[int]]] | None = None
        self._exits: dict[int, asyncio.Future[int]] = {}

    async def fork(self, arguments: Sequence[str], environment: Mapping[str, str]) -> Process:
        """Run a module with arguments."""
        assert not any(name.startswith("PYTHON") for name in environment), "only a new interpreter reads these"
        request = json.dumps({"arguments": arguments, "environment": environment}).encode()
        loop = asyncio.get_running_loop()
        output = asyncio.StreamReader()
        readable, writable = os.pipe()
        await loop.connect_read_pipe(lambda: Output(output), os.fdopen(readable, "rb", 0))
        async with self._forking:
            self._forked = loop.create_future()
            socket.send_fds(self._control, [request], [writable])
            os.close(writable)
            pid, exited = await self._forked
        return Fork(pid, output, exited)

    async def listen(self, reports: asyncio.StreamReader) -> None:
        while report := await reports.readline():
            pid, returncode = json.loads(report)
            if returncode is not None:
                self._exits.pop(pid).set_result(returncode)
            elif self._forked:
                self._exits[pid] = asyncio.get_running_loop().create_future()
                self._forked.set_result((pid, self._exits[pid]))
        if self._forked and not self._forked.done():
            self._forked.set_exception(RuntimeError("the fork server has ended"))


@asynccontextmanager
async def running_fork_server() -> AsyncIterator[ForkServer]:
    ours, theirs = socket.socketpair()
    with theirs:
        # Not by the event loop: with uvloop, a process inherits the files of others that start at the same time.
        process = subprocess.Popen(  # noqa: ASYNC220, S603 - it takes a moment; our own command
            [sys.executable, "-m", "tests.fork_server", str(theirs.fileno())],
            cwd=REPOSITORY,
            # What every request overwrites. Python itself adds the locale of its child processes.
            env={"PATH": "", "HOME": ""},
            stdout=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
            start_new_session=True,
        )
    reports, writer = await asyncio.open_connection(sock=ours.dup())
    with ours:
        server = ForkServer(ours)
        listening = asyncio.create_task(server.listen(reports))
        yield server
        writer.close()
        ours.shutdown(socket.SHUT_RDWR)
    await listening
    await asyncio.to_thread(process.wait)
