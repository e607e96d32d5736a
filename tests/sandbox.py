"""Runs a command with the system calls that a systemd unit allows: ``python -m tests.sandbox UNIT COMMAND…``.

Most of what a unit says needs systemd. This needs only the kernel and libseccomp, and it is what breaks programs.
"""

import ctypes
import errno
import os
import shutil
import subprocess
import sys
from ctypes.util import find_library
from pathlib import Path
from typing import Final

import pytest

PR_SET_NO_NEW_PRIVS: Final = 38
PR_SET_MDWE: Final = 65  # as MemoryDenyWriteExecute=; since Linux 6.3
ALLOW: Final = 0x7FFF0000
EPERM: Final = 0x00050000 | errno.EPERM

SYSTEMD_ANALYZE: Final = shutil.which("systemd-analyze")
LIBSECCOMP: Final = find_library("seccomp")


def main(unit: str, command: list[str]) -> None:
    settings = [line.partition("=")[::2] for line in Path(unit).read_text(encoding="utf-8").splitlines()]
    values = [value for name, value in settings if name == "SystemCallFilter"]
    allowed: set[str] = set()
    for value in values:
        calls = {call for word in value.lstrip("~").split() for call in _calls(word)}
        allowed = allowed - calls if value.startswith("~") else allowed | calls
    libc = ctypes.CDLL(None, use_errno=True)
    _check(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    if ("MemoryDenyWriteExecute", "yes") in settings and libc.prctl(PR_SET_MDWE, 1, 0, 0, 0):
        print("this kernel does not deny memory that can be written and executed", file=sys.stderr)  # noqa: T201
    _load_filter(allowed)
    os.execvp(command[0], command)  # noqa: S606


def _calls(name: str) -> list[str]:
    """The system calls of a set (``@process``), which may contain other sets."""
    if not name.startswith("@"):
        return [name]
    printed = subprocess.check_output([SYSTEMD_ANALYZE or "", "--no-pager", "syscall-filter", name], text=True)  # noqa: S603
    members = [line.strip() for line in printed.splitlines()[1:] if line.strip()]
    return [call for member in members if not member.startswith("#") for call in _calls(member)]


def _load_filter(allowed: set[str]) -> None:
    seccomp = ctypes.CDLL(LIBSECCOMP)
    seccomp.seccomp_init.restype = ctypes.c_void_p
    context = ctypes.c_void_p(seccomp.seccomp_init(EPERM))
    for call in sorted(allowed):
        if (number := seccomp.seccomp_syscall_resolve_name(call.encode())) >= 0:  # below: not on this architecture
            _check(seccomp.seccomp_rule_add(context, ALLOW, number, 0))
    _check(seccomp.seccomp_load(context))


def _check(result: int) -> None:
    if result:
        raise OSError(abs(result), "the sandbox cannot be set up")


@pytest.fixture
def sandbox_command(repository: Path) -> list[str]:
    """The arguments of ``start`` before a module that is to run with the system calls of the sample unit."""
    return ["tests.sandbox", str(repository / "service" / "operations" / "accounts-and-posts.service"), sys.executable]


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
