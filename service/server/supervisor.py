"""uvicorn's supervisor, for several workers on one listening socket."""

import logging
import multiprocessing
import os
import signal
import socket
import time
from functools import cached_property
from multiprocessing import resource_tracker
from typing import Any, Final

from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors import multiprocess

from service.observability import logs
from service.observability.exposition import expose
from service.server import open_files
from service.server.server import SHUTDOWN_SECONDS, Config, Server
from service.settings import Settings

logger = logging.getLogger(__name__)

FREE: Final = -1
TOLERANCE: Final = 1.1  # times the connections of the worker with the fewest
DEFER_SECONDS: Final = 0.001

_spawn = multiprocessing.get_context("spawn")

# A terminal sends these to all processes. The workers are stopped by the supervisor instead.
_TERMINAL_SIGNALS: Final = {signal.SIGINT, signal.SIGHUP}


def _log_config(settings: Settings) -> dict[str, Any]:
    return logs.configuration(settings.log_format, settings.log_level)


def serve(settings: Settings, listener: socket.socket) -> None:
    """Serve until SIGINT, SIGTERM or SIGHUP. Raises ``SystemExit`` if a worker cannot start."""
    open_files.raise_limit()
    several = settings.workers > 1
    config = Workers(settings) if several else Config(settings, log_config=_log_config(settings))
    if config.snapshots:
        expose(settings, config.snapshots)
    if isinstance(config, Workers):
        Supervisor(config, [listener]).run()
    else:
        Server(config).run([listener])


class Workers(Config):
    """The configuration of several workers."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings, log_config=_log_config(settings))
        # The number of connections of each worker, in shared memory. FREE marks a slot without a worker.
        self.connections = _spawn.RawArray("i", [FREE] * settings.workers)


class Worker(Server):
    """One of several servers on one listening socket. It stops when its supervisor has died."""

    config: Workers

    def __init__(self, config: Workers, supervisor: int, slot: int) -> None:
        super().__init__(config, slot)
        self.supervisor = supervisor
        self.slot = slot

    async def on_tick(self, counter: int) -> bool:
        self._count()
        if os.getppid() != self.supervisor:
            self.handle_exit(signal.SIGTERM, None)
        return await super().on_tick(counter)

    def _count(self) -> int:
        connections = len(self.server_state.connections) + len(self.opening)
        self.config.connections[self.slot] = connections
        return connections

    def on_readable(self) -> None:
        """Wait a moment before accepting a connection if another worker has clearly fewer.

        A new connection wakes every worker. Without this, the first to run gets nearly all connections of a burst.
        """
        fewest = min(count for count in self.config.connections if count != FREE)
        if self._count() > fewest * TOLERANCE + 4 and not self.should_exit:
            self.pause_accepting(DEFER_SECONDS)
        else:
            super().on_readable()


class WorkerProcess(multiprocess.Process):
    """A worker's process, as uvicorn's supervisor starts it."""

    config: Workers

    def __init__(self, config: Workers, sockets: list[socket.socket]) -> None:
        super().__init__(config, sockets)
        self.supervisor = os.getpid()
        self.slot = list(config.connections).index(FREE)
        config.connections[self.slot] = 0

    def start(self) -> None:
        # A child inherits the mask. The start of multiprocessing's resource tracker resets it, so that comes first.
        resource_tracker.ensure_running()
        signal.pthread_sigmask(signal.SIG_BLOCK, _TERMINAL_SIGNALS)
        try:
            super().start()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _TERMINAL_SIGNALS)

    def join(self) -> None:
        super().join()
        self.config.connections[self.slot] = FREE

    @cached_property
    def server(self) -> Server:
        return Worker(self.config, self.supervisor, self.slot)


# uvicorn's supervisor looks this class up in its own module.
multiprocess.Process = WorkerProcess  # type: ignore[misc,assignment]


class Supervisor(multiprocess.Multiprocess):
    """Replaces workers that die or hang, and forwards signals to stop, including the second one."""

    config: Workers

    handle_hup = multiprocess.Multiprocess.handle_term

    def handle_ttin(self) -> None:
        """Ignored: the number of workers is a setting."""

    handle_ttou = handle_ttin

    def run(self) -> None:
        super().run()
        if any(process.exitcode == STARTUP_FAILURE for process in self.processes):
            raise SystemExit(1)

    def keep_subprocess_alive(self) -> None:
        try:
            super().keep_subprocess_alive()
        except OSError as error:  # too many processes or open files; uvicorn retries in half a second
            logger.error("cannot start a worker: %s", error)  # noqa: TRY400 - a traceback adds nothing

    def join_all(self) -> None:
        """Wait for the workers, and kill those that have not exited in the time that a stop takes."""
        for listener in self.sockets:
            listener.close()  # otherwise the kernel accepts connections, and resets them at the end
        deadline = time.monotonic() + self.config.settings.drain_seconds + SHUTDOWN_SECONDS + 1
        while any(process.process.is_alive() for process in self.processes):
            if self.signal_queue:
                self.signal_queue.clear()
                self.terminate_all()
            if time.monotonic() > deadline:
                for process in self.processes:
                    process.kill()
            time.sleep(0.05)
