"""Runs a command with the system calls that a systemd unit allows: ``python -m tests.sandbox UNIT COMMAND…``.

Most of what a unit says needs systemd. This needs only the kernel and libseccomp, and it is what breaks programs.
"""

import ctypes
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from tests.system_calls import allow_only, check

PR_SET_NO_NEW_PRIVS: Final = 38
PR_SET_MDWE: Final = 65  # as MemoryDenyWriteExecute=; since Linux 6.3

SYSTEMD_ANALYZE: Final = shutil.which("systemd-analyze")


def main(unit: str, command: list[str]) -> None:
    settings = [line.partition("=")[::2] for line in Path(unit).read_text(encoding="utf-8").splitlines()]
    values = [value for name, value in settings if name == "SystemCallFilter"]
    allowed: set[str] = set()
    for value in values:
        calls = {call for word in value.lstrip("~").split() for call in _calls(word)}
        allowed = allowed - calls if value.startswith("~") else allowed | calls
    libc = ctypes.CDLL(None, use_errno=True)
    check(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    if ("MemoryDenyWriteExecute", "yes") in settings and libc.prctl(PR_SET_MDWE, 1, 0, 0, 0):
        print("this kernel does not deny memory that can be written and executed", file=sys.stderr)  # noqa: T201
    allow_only(allowed)
    os.execvp(command[0], command)  # noqa: S606


def _calls(name: str) -> list[str]:
    """The system calls of a set (``@process``), which may contain other sets."""
    if not name.startswith("@"):
        return [name]
    printed = subprocess.check_output([SYSTEMD_ANALYZE or "", "--no-pager", "syscall-filter", name], text=True)  # noqa: S603
    members = [line.strip() for line in printed.splitlines()[1:] if line.strip()]
    return [call for member in members if not member.startswith("#") for call in _calls(member)]


@pytest.fixture
def sandbox_command(repository: Path) -> list[str]:
    """The arguments of ``start`` before a module that is to run with the system calls of the sample unit."""
    return ["tests.sandbox", str(repository / "service" / "operations" / "accounts-and-posts.service"), sys.executable]


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
