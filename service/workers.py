"""One process that serves, or several and one that keeps them."""

import logging
import multiprocessing
import os
import resource
import signal
import socket
from contextlib import suppress
from typing import Any, Final

import uvicorn

from service.server import Server, configuration
from service.settings import Settings

logger = logging.getLogger(__name__)

# What the supervisor waits for; SIGCHLD says that a worker has ended, SIGALRM that it is time for another.
HEARD: Final = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD, signal.SIGALRM}

_BEFORE_ANOTHER: Final = 0.5  # seconds, so that workers which cannot live do not keep the machine busy
_UNFAIR: Final = 1.1  # times the connections of who has fewest
_MOMENT: Final = 0.005  # seconds, in which others may accept


def serve(settings: Settings, listener: socket.socket) -> None:
    """Serve until SIGINT or SIGTERM."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # each connection takes one
    if settings.workers == 1:
        with suppress(KeyboardInterrupt):
            Server(configuration(settings)).run([listener])
    else:
        Supervisor(settings, listener).run()


class Supervisor:
    """Keeps as many workers as the settings say, until a signal, which goes on to them, as does the next."""

    def __init__(self, settings: Settings, listener: socket.socket) -> None:
        self.settings = settings
        self.listener = listener
        self.fork = multiprocessing.get_context("fork")
        self.connections = self.fork.RawArray("i", settings.workers)
        self.workers: dict[int, Any] = {}  # by their numbers
        self.stopping = False

    def run(self) -> None:
        # Forked workers take over the mask: what is meant for them waits until they can hear it.
        signal.pthread_sigmask(signal.SIG_BLOCK, HEARD)
        self._start_missing()
        while not self.stopping or self.workers:
            match signal.sigwait(HEARD):
                case signal.SIGALRM:
                    self._start_missing()
                case signal.SIGCHLD:
                    self._forget_ended()
                case _:
                    self._stop()

    def _start_missing(self) -> None:
        if self.stopping:
            return
        try:
            for number in set(range(self.settings.workers)) - self.workers.keys():
                mine = (self.settings, self.listener, os.getpid(), self.connections, number)
                worker = self.fork.Process(target=work, args=mine)
                worker.start()
                self.workers[number] = worker
        except OSError as error:
            logger.error("cannot start a worker: %s", error)  # noqa: TRY400 - nothing that a traceback explains
            signal.setitimer(signal.ITIMER_REAL, _BEFORE_ANOTHER)

    def _forget_ended(self) -> None:
        for number, worker in list(self.workers.items()):
            if worker.is_alive():
                continue
            del self.workers[number]
            if not self.stopping:
                logger.error("worker %d has ended with %d, another follows", worker.pid, worker.exitcode)
                signal.setitimer(signal.ITIMER_REAL, _BEFORE_ANOTHER)

    def _stop(self) -> None:
        self.stopping = True
        self.listener.close()
        for worker in self.workers.values():
            worker.terminate()


def work(settings: Settings, listener: socket.socket, supervisor: int, connections: Any, number: int) -> None:
    # A terminal sends SIGINT to all of its processes: only the supervisor hears that.
    worker = Worker(configuration(settings), supervisor, connections, number)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM, signal.SIGCHLD})
    worker.run([listener])


class Worker(Server):
    """A server that shares its listener with others.

    It leaves connections to the others when they have clearly fewer: whoever runs while many clients connect at once
    would take all of them. But only for a moment, because the others may be busy, stand still, or have just ended.
    """

    at_a_time = 4  # the others' numbers may be old

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

    def somebody_waits(self) -> None:
        if self._count() > min(self.connections) * _UNFAIR + 1 and not self.should_exit:
            self.pause_accepting(_MOMENT)
        else:
            super().somebody_waits()

    def accept(self) -> bool:
        accepted = super().accept()
        self._count()
        return accepted
