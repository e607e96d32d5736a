"""``python -m tests.denied CALLS MODULE [ARGUMENT…]`` runs a module while the kernel refuses some system calls.

``CALLS`` is a list with commas; each of them fails with EPERM. This takes a seccomp filter, such as systemd installs
for ``SystemCallFilter=`` with ``SystemCallErrorNumber=EPERM``. It works on Linux on x86-64 and ARM64.
"""

import ctypes
import errno
import platform
import runpy
import struct
import sys

# The kernel's number of the architecture (linux/audit.h), and its numbers of the system calls. ARM64 has no ``link``:
# the C library uses ``linkat``.
_ARCHITECTURES = {
    "x86_64": (0xC000003E, {"getpriority": 140, "setpriority": 141, "link": 86, "linkat": 265, "prlimit64": 302}),
    "aarch64": (0xC00000B7, {"getpriority": 141, "setpriority": 140, "linkat": 37, "prlimit64": 261}),
}
MODULE = "tests.denied" if sys.platform == "linux" and platform.machine() in _ARCHITECTURES else None

_PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS, _SECCOMP_MODE_FILTER = 22, 38, 2
_LOAD, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06  # of classic BPF
_ALLOW, _FAIL = 0x7FFF0000, 0x00050000


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def deny(calls: list[str]) -> None:
    """Let these system calls fail with EPERM, in this thread and in those that it starts."""
    architecture, known = _ARCHITECTURES[platform.machine()]
    numbers = [known[call] for call in calls if call in known]
    instructions = [(_LOAD, 0, 0, 4), (_JUMP_IF_EQUAL, 0, len(numbers) + 1, architecture), (_LOAD, 0, 0, 0)]
    for index, number in enumerate(numbers):
        instructions.append((_JUMP_IF_EQUAL, len(numbers) - index, 0, number))
    instructions += [(_RETURN, 0, 0, _ALLOW), (_RETURN, 0, 0, _FAIL | errno.EPERM)]
    code = b"".join(struct.pack("HBBI", *instruction) for instruction in instructions)
    libc = ctypes.CDLL(None, use_errno=True)
    for arguments in (
        (_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
        (_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(_Program(len(instructions), code)), 0, 0),
    ):
        if libc.prctl(*arguments):
            raise OSError(ctypes.get_errno(), "the kernel accepts no seccomp filter")


if __name__ == "__main__":
    denied, sys.argv = sys.argv[1].split(","), sys.argv[2:]
    deny(denied)
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
