"""The workers of a fork of ``tests/fork_server.py`` are forks, too, so that they do not repeat the imports.

multiprocessing still pickles what a worker gets, and the worker inherits no more files, signal handlers or threads than
a new interpreter does. ``test_commands.py`` and ``test_signals.py`` also start workers as new interpreters.
"""

import os
import re
import signal
import sys
import traceback
from collections.abc import Iterable, Sequence
from contextlib import suppress
from multiprocessing import spawn, util
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

ALL = signal.valid_signals()

spawnv_passfds = util.spawnv_passfds


def install() -> None:
    """Let multiprocessing fork this process instead of starting an interpreter."""
    util.spawnv_passfds = fork_instead


def fork_instead(path: bytes, args: Sequence[Any], passfds: Sequence[int]) -> int:
    """Start the process of a command line of multiprocessing. Returns its process id."""
    worker = re.search(r"spawn_main\(tracker_fd=(\d+), pipe_handle=(\d+)\)", str(args))
    if not worker:  # the resource tracker
        return spawnv_passfds(path, args, passfds)
    # A signal that the worker gets before it has the handlers of a new interpreter must not reach the supervisor's.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ALL)
    try:
        if pid := os.fork():
            return pid
        run_worker(int(worker[1]), int(worker[2]), set(passfds), before)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def run_worker(tracker: int, pipe: int, descriptors: set[int], mask: Iterable[int]) -> NoReturn:
    """Do in a fork what multiprocessing's command line does in a new interpreter. Does not return."""
    status: object = 1
    try:
        become_new(descriptors)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        sys.argv = ["-c", "--multiprocessing-fork"]
        sys.modules["__main__"] = ModuleType("__main__")
        spawn.spawn_main(pipe_handle=pipe, tracker_fd=tracker)
    except SystemExit as end:
        status = end.code
    except BaseException:  # noqa: BLE001 - as the interpreter does
        traceback.print_exc()
    finally:  # not even an error here may return to the supervisor's code
        with suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status if isinstance(status, int) else 1)


def become_new(descriptors: set[int]) -> None:
    """Give up the files and the signal handlers of the parent."""
    signal.set_wakeup_fd(-1)
    for number in ALL:
        if callable(signal.getsignal(number)):
            signal.signal(number, signal.SIG_DFL)
    if signal.getsignal(signal.SIGINT) == signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    for opened in [int(file.name) for file in Path("/dev/fd").iterdir()]:
        if opened > 2 and opened not in descriptors:
            with suppress(OSError):  # the one of the directory
                os.close(opened)
