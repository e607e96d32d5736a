"""One process that serves, or several and one that keeps them."""

import logging
import multiprocessing
import os
import resource
import signal
import socket
import time
from contextlib import suppress
from typing import Any, Final

import uvicorn

from service.server import Server, configuration
from service.settings import Settings

logger = logging.getLogger(__name__)

# What the one who keeps the workers waits for; SIGCHLD says that a worker has ended.
HEARD: Final = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD}

_BEFORE_ANOTHER: Final = 0.5  # seconds, so that workers which cannot live do not keep the machine busy
_UNFAIR: Final = 1.1  # times the connections of who has fewest
_MOMENT: Final = 0.001  # seconds, in which others may accept


def serve(settings: Settings, listener: socket.socket) -> None:
    """Serve until SIGINT or SIGTERM."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # each connection takes one
    if settings.workers == 1:
        with suppress(KeyboardInterrupt):
            Server(configuration(settings)).run([listener])
    else:
        supervise(settings, listener)


def supervise(settings: Settings, listener: socket.socket) -> None:
    """Keep as many workers as the settings say, until a signal, which goes on to them, as does the next."""
    # Forked workers take over the mask: what is meant for them waits until they can hear it.
    signal.pthread_sigmask(signal.SIG_BLOCK, HEARD)
    fork = multiprocessing.get_context("fork")
    connections = fork.RawArray("i", settings.workers)

    def start(number: int) -> Any:
        worker = fork.Process(target=work, args=(settings, listener, os.getpid(), connections, number))
        worker.start()
        return worker

    workers = [start(number) for number in range(settings.workers)]
    stopping = False
    while not stopping or any(worker.is_alive() for worker in workers):
        if signal.sigwait(HEARD) != signal.SIGCHLD:
            stopping = True
            listener.close()
            for worker in workers:
                worker.terminate()
        elif not stopping:
            for number, worker in enumerate(workers):
                if not worker.is_alive():
                    logger.error("worker %d has ended with %d, another takes its place", worker.pid, worker.exitcode)
                    time.sleep(_BEFORE_ANOTHER)
                    workers[number] = start(number)


def work(settings: Settings, listener: socket.socket, supervisor: int, connections: Any, number: int) -> None:
    # A terminal sends SIGINT to all of its processes: only the supervisor hears that.
    worker = Worker(configuration(settings), supervisor, connections, number)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM, signal.SIGCHLD})
    worker.run([listener])


class Worker(Server):
    """A server that shares its listener with others.

    It leaves connections to the others for a moment when they have clearly fewer: whoever runs while many clients
    connect at once would take all of them.
    """

    at_a_time = 8  # the others' numbers may be old

    def __init__(self, config: uvicorn.Config, supervisor: int, connections: Any, number: int) -> None:
        """``connections`` is how many each has, in memory that all of them see; ``number`` is this one's place."""
        super().__init__(config)
        self.supervisor = supervisor
        self.connections = connections
        self.number = number

    async def on_tick(self, counter: int) -> bool:
        self._count()
        self.should_exit |= os.getppid() != self.supervisor
        return await super().on_tick(counter)

    def _count(self) -> int:
        self.connections[self.number] = mine = self.count_connections()
        return mine

    def accept(self) -> bool:
        if self._count() > min(self.connections) * _UNFAIR + 1 and not self.should_exit:
            self.pause_accepting(_MOMENT)
            return False
        return super().accept()
