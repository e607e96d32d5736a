"""How many cores this process may use: its affinity, and the CPU quota of its container."""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Final

_CGROUPS: Final = Path("/sys/fs/cgroup")
_CGROUPS_OF_PROCESS: Final = Path("/proc/self/cgroup")


def usable_cores() -> int:
    """The cores that this process may use, at least 1. A quota of 2.5 cores counts as 2."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, int(min(cores, cpu_quota())))


def cpu_quota(mounted: Path = _CGROUPS, of_process: Path = _CGROUPS_OF_PROCESS) -> float:
    """The smallest quota of the process's control group and of those that contain it, in cores; infinite without one.

    Docker, Kubernetes and systemd limit the CPU time in this way. ``os.process_cpu_count`` does not know it.
    """
    return min((quota for group in _groups(mounted, of_process) if (quota := _read(group))), default=float("inf"))


def _groups(mounted: Path, of_process: Path) -> Iterator[Path]:
    """The directories of the process's groups in both versions of cgroups (see cgroups(7)).

    A container may see its own group as the root, while the kernel names it by its path on the host. So the directories
    on that path need not exist, and the root always counts.
    """
    try:
        lines = of_process.read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        root = mounted / "cpu" if controllers else mounted
        relative = PurePosixPath(path.lstrip("/"))
        yield from (root / part for part in (relative, *relative.parents))


def _read(group: Path) -> float | None:
    """The quota of one group in cores; ``None`` without one."""
    with suppress(OSError, ValueError):  # version 2: "200000 100000", or "max 100000"
        quota, period = (group / "cpu.max").read_text(encoding="utf-8").split()
        return int(quota) / int(period)
    with suppress(OSError, ValueError):  # version 1: -1 means no quota
        allowed, per = (int((group / f"cpu.cfs_{name}_us").read_text(encoding="utf-8")) for name in ("quota", "period"))
        return allowed / per if allowed > 0 else None
    return None
