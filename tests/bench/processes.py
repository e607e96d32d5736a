"""Processes that are pinned to cores, and their CPU time, memory and connections (Linux only)."""

import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

_usable = sorted(os.sched_getaffinity(0))
# The server has a core of its own; wrk and PostgreSQL use another one. So every server under test has exactly one core.
SERVER_CORE: Final = str(_usable[0])
CLIENT_CORE: Final = str(_usable[-1])
ALL_CORES: Final = ",".join(map(str, _usable))

# How to install the programs that are not among the project's own packages.
SOURCES: Final = {
    "wrk": "Debian package wrk",
    "taskset": "Debian package util-linux",
    "uv": "pip install uv",
    "node": "Debian package nodejs",
    "npm": "Debian package npm",
}


class MissingProgram(Exception):
    """A program that the benchmark needs is not installed; the message says how to install it."""


def find(program: str) -> str:
    """The path of a program. Raises ``MissingProgram``."""
    if (path := shutil.which(program)) is None:
        raise MissingProgram(f"{program} is not installed; to install it: {SOURCES[program]}")
    return path


def has(*programs: str) -> bool:
    return all(map(shutil.which, programs))


def stay_on(cores: str) -> None:
    """Pin this process to cores, such as ``0`` or ``0,1``, and the processes that it starts unless they are pinned."""
    os.sched_setaffinity(0, map(int, cores.split(",")))


def pinned(cores: str, command: Sequence[str | Path]) -> list[str]:
    """The command that runs ``command`` pinned to these cores."""
    return [find("taskset"), "--cpu-list", cores, *map(str, command)]


def output(
    command: Sequence[str | Path],
    *,
    seconds: float,
    directory: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> str:
    """Run a command, with more variables in its environment, and return its output.

    Raises the errors of ``subprocess.run``.
    """
    variables = os.environ | (environment or {})
    done = subprocess.run(  # noqa: S603 - our own commands
        command, cwd=directory, env=variables, timeout=seconds, check=True, stdout=subprocess.PIPE, text=True
    )
    return done.stdout


@contextmanager
def running(
    command: Sequence[str], *, directory: Path, environment: Mapping[str, str], log: Path
) -> Iterator[subprocess.Popen[str]]:
    """Run a command until the end of the block; its output goes to ``log``."""
    with log.open("w") as file:
        # In a session of its own, so that Ctrl-C ends only this process, which then stops the others in order.
        process = subprocess.Popen(  # noqa: S603 - our own commands
            command,
            cwd=directory,
            env=environment,
            stdout=file,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def cores_in_use(seconds: float = 1) -> float:
    """How many cores of the machine are busy now."""
    before = idle_seconds()
    time.sleep(seconds)
    return (os.cpu_count() or 1) - (idle_seconds() - before) / seconds


def idle_seconds() -> float:
    """The idle time of all cores of the machine since its start."""
    times = Path("/proc/stat").read_text().split(maxsplit=6)
    return (int(times[4]) + int(times[5])) / os.sysconf("SC_CLK_TCK")


def memory_mib(pid: int) -> tuple[float, float]:
    """The resident memory of a process, current and peak."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    kib = {name: float(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines) if "Vm" in name}
    return kib["VmRSS"] / 1024, kib["VmHWM"] / 1024


def cpu_seconds(pid: int) -> float:
    """The CPU time of a process, user and system."""
    _, _, fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")
    return sum(map(int, fields.split()[11:13])) / os.sysconf("SC_CLK_TCK")


def workers(pid: int) -> list[int]:
    """The processes that serve: the children of the first one or, without any, the first one itself."""
    children = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    # Python's resource tracker is a child too.
    serving = [child for child in children if b"resource_tracker" not in Path(f"/proc/{child}/cmdline").read_bytes()]
    return serving or [pid]


def connections(pid: int, port: int) -> int:
    """How many connections a process has on ``port``."""
    rows = (line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:])
    ours = {f"socket:[{row[9]}]" for row in rows if row[1].endswith(f":{port:04X}") and row[3] == "01"}
    return sum(str(descriptor.readlink()) in ours for descriptor in Path(f"/proc/{pid}/fd").iterdir())
