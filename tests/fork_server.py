"""Runs modules as ``python -m`` does, but in forks of a process that has imported the service.

Most tests make a process do less than its imports do. The client is in ``tests/forks.py``.
"""

import gc
import json
import os
import runpy
import selectors
import signal
import socket
import sys
from contextlib import suppress
from typing import Any

import service.app
import service.development.embedded
import service.server.supervisor  # noqa: F401 - for the forks
from tests import forked_workers


def main() -> None:
    control = socket.socket(fileno=int(sys.argv.pop()))
    gc.collect()
    gc.freeze()  # so that a collection in a fork does not copy all memory
    woken, wakes = socket.socketpair()
    wakes.settimeout(0)  # as set_wakeup_fd demands
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wakes.fileno())
    with selectors.DefaultSelector() as selector:
        selector.register(control, selectors.EVENT_READ)
        selector.register(woken, selectors.EVENT_READ)
        module = serve(selector, control, woken)
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # a shell lets what runs in the background ignore these two
    signal.signal(signal.SIGQUIT, signal.SIG_DFL)
    for inherited in (control, woken, wakes):
        inherited.close()
    forked_workers.install()
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def serve(selector: selectors.BaseSelector, control: socket.socket, woken: socket.socket) -> str:
    """Fork for each request, and report how each fork ends. Returns only in a fork: the module that it runs."""
    while True:
        ready = {key.fileobj for key, _ in selector.select()}
        if woken in ready:
            woken.recv(4096)
            report_ends(control)
        if control in ready:
            text, descriptors, _, _ = socket.recv_fds(control, 65536, 1)
            if not text:
                sys.exit()
            if not (pid := os.fork()):
                return become(json.loads(text), *descriptors)
            os.close(descriptors[0])
            report(control, pid, None)


def become(request: dict[str, Any], output: int) -> str:
    """Take what a new process gets from its parent. Returns the name of the module to run."""
    os.setsid()
    for stream in (sys.stdout, sys.stderr):
        os.dup2(output, stream.fileno())
    os.close(output)
    os.environ |= request["environment"]
    module, *sys.argv[1:] = request["arguments"]
    return str(module)


def report_ends(control: socket.socket) -> None:
    with suppress(ChildProcessError):
        while (found := os.waitpid(-1, os.WNOHANG))[0]:
            report(control, found[0], os.waitstatus_to_exitcode(found[1]))


def report(control: socket.socket, pid: int, returncode: int | None) -> None:
    control.sendall(json.dumps([pid, returncode]).encode() + b"\n")


if __name__ == "__main__":
    main()
