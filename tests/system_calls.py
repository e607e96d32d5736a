"""Filters of system calls, such as systemd installs for ``SystemCallFilter=`` with ``SystemCallErrorNumber=EPERM``."""

import ctypes
import errno
from collections.abc import Iterable
from ctypes.util import find_library
from typing import Final

LIBSECCOMP: Final = find_library("seccomp")

_ALLOW: Final = 0x7FFF0000
_FAIL: Final = 0x00050000 | errno.EPERM


def deny(calls: Iterable[str]) -> None:
    """Let these system calls fail with EPERM, in this thread and in those that it starts."""
    _load(_ALLOW, _FAIL, calls)


def allow_only(calls: Iterable[str]) -> None:
    """Let all other system calls fail with EPERM, in this thread and in those that it starts."""
    _load(_FAIL, _ALLOW, calls)


def check(result: int) -> None:
    if result:
        raise OSError(abs(result), "the kernel does not accept the filter")


def _load(default: int, action: int, calls: Iterable[str]) -> None:
    seccomp = ctypes.CDLL(LIBSECCOMP)
    seccomp.seccomp_init.restype = ctypes.c_void_p
    context = ctypes.c_void_p(seccomp.seccomp_init(default))
    for call in sorted(calls):
        if (number := seccomp.seccomp_syscall_resolve_name(call.encode())) >= 0:  # below: not on this architecture
            check(seccomp.seccomp_rule_add(context, action, number, 0))
    check(seccomp.seccomp_load(context))
