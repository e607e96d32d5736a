"""``python -m tests.own_process`` prints what it got from the process that started it.

With ``worker`` as the last argument, a process of multiprocessing that it starts prints the same of itself.
"""

import json
import multiprocessing
import os
import resource
import signal
import sys
from pathlib import Path


def print_found() -> None:
    main = sys.modules["__main__"]
    found = {
        "arguments": sys.argv,
        "environment": dict(os.environ),
        "directory": Path.cwd(),
        "path": sys.path,
        "flags": sys.flags,
        "main": (main.__name__, main.__spec__ and main.__spec__.name),
        "leads its session and its group": {os.getsid(0), os.getpgrp()} == {os.getpid()},
        "handlers of signals": {str(number): signal.getsignal(number) for number in signal.valid_signals()},
        "blocked signals": signal.pthread_sigmask(signal.SIG_BLOCK, ()),
        "file to write signals to": signal.set_wakeup_fd(-1),
        "files": sorted(file.name for file in Path("/dev/fd").iterdir()),
        "mask of new files": os.umask(0o22),
        "limit of files": resource.getrlimit(resource.RLIMIT_NOFILE),
        "streams": [(one.encoding, one.line_buffering, one.isatty()) for one in (sys.stdout, sys.stderr)],
    }
    print(json.dumps(found, default=str))  # noqa: T201 - its purpose


if __name__ == "__main__":
    if sys.argv[-1] == "worker":
        signal.signal(signal.SIGTERM, lambda *_: None)
        with Path(__file__).open() as _:
            worker = multiprocessing.get_context("spawn").Process(target=print_found)
            worker.start()
            worker.join()
    else:
        print_found()
