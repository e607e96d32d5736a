"""The limit of open files. Each connection takes one."""

import logging
import resource
from typing import Final

logger = logging.getLogger(__name__)

# Where a system has no hard limit. macOS may refuse this one, and accepts the other in any case.
_ENOUGH: Final = 65_536
_ACCEPTED_BY_MACOS: Final = 10_240  # OPEN_MAX


def raise_limit() -> None:
    """Raise the soft limit as far as this is possible and useful. A failure is logged."""
    reason: Exception | None = None
    for wanted in (_ENOUGH, _ACCEPTED_BY_MACOS):
        try:
            soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            resource.setrlimit(resource.RLIMIT_NOFILE, (new_limit(soft, hard, wanted), hard))
        except (OSError, ValueError) as error:  # ValueError: setrlimit's EINVAL and EPERM
            reason = reason or error
        else:
            return
    logger.warning("the limit of open files stays as it is, because the system does not raise it: %s", reason)


def new_limit(soft: int, hard: int, wanted: int) -> int:
    """A finite limit, not below ``soft``. macOS refuses an unlimited one even if its hard limit is unlimited."""
    if soft == resource.RLIM_INFINITY:
        return soft
    return max(soft, wanted if hard == resource.RLIM_INFINITY else min(hard, wanted))
