"""Password hashing with Argon2id (RFC 9106), in threads of its own so that the event loop does not block."""

import asyncio
import base64
import logging
import os
import secrets
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Final, TypeVar

from argon2 import PasswordHasher
from argon2.exceptions import Argon2Error, VerifyMismatchError
from argon2.low_level import ARGON2_VERSION

from service.errors import HashingFailed, TooManyPasswords
from service.structs.fields import MAX_PASSWORD_LENGTH, normalize

T = TypeVar("T")

logger = logging.getLogger(__name__)

# Added to the nice value of the hashing threads. The event loop takes precedence on a shared core, and the threads
# still get about a tenth of it.
NICENESS: Final = 10


class Passwords:
    """Hashes and checks passwords, a bounded number at a time.

    argon2 releases the GIL while it works. A caller holds no database connection while it waits here.
    """

    def __init__(self, *, memory_kib: int, passes: int, lanes: int, threads: int, queue: int) -> None:
        """At most ``queue`` passwords may be waiting or hashed at a time; the next is rejected."""
        self._hasher = PasswordHasher(time_cost=passes, memory_cost=memory_kib, parallelism=lanes)
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="argon2", initializer=_lower_priority)
        self.capacity = queue
        self._free_slots = queue
        self._dummy_hash = _dummy_hash(self._hasher)

    @property
    def queued(self) -> int:
        """How many passwords are waiting or being hashed."""
        return self.capacity - self._free_slots

    async def hash(self, password: str) -> str:
        """Hash a password in its normal form. Raises ``TooManyPasswords``, ``HashingFailed``."""
        return await self._run(lambda: self._hasher.hash(normalize(password, MAX_PASSWORD_LENGTH)))

    async def verify(self, password: str, stored: str | None) -> bool:
        """Whether the password has the stored hash. Raises ``TooManyPasswords``, ``HashingFailed``.

        ``None``, for an account that does not exist, takes the same time and is never correct.
        """
        return (
            await self._run(lambda: self._verify(password, self._dummy_hash if stored is None else stored))
            and stored is not None
        )

    def _verify(self, password: str, stored: str) -> bool:
        normalized = normalize(password, MAX_PASSWORD_LENGTH)
        # Before passwords were normalised, they were hashed as they were typed.
        return self._matches(normalized, stored) or (normalized != password and self._matches(password, stored))

    def _matches(self, password: str, stored: str) -> bool:
        try:
            return self._hasher.verify(stored, password)
        except VerifyMismatchError:
            return False

    async def needs_rehash(self, password: str, stored: str) -> bool:
        """Whether the hash of a correct password was made with other settings, or before passwords were normalised.

        Raises ``TooManyPasswords``, ``HashingFailed``.
        """
        if self._hasher.check_needs_rehash(stored):
            return True
        normalized = normalize(password, MAX_PASSWORD_LENGTH)
        return normalized != password and not await self._run(lambda: self._matches(normalized, stored))

    async def _run(self, work: Callable[[], T]) -> T:
        if not self._free_slots:
            raise TooManyPasswords
        self._free_slots -= 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        # ValueError: the stored hash is invalid. RuntimeError: no thread can be started.
        except (Argon2Error, ValueError, MemoryError, RuntimeError) as error:
            logger.error("a password cannot be hashed or checked: %s", _reason(error))  # noqa: TRY400 - a known cause
            raise HashingFailed from error
        finally:
            self._free_slots += 1

    def close(self) -> None:
        self._threads.shutdown(cancel_futures=True)


def _dummy_hash(hasher: PasswordHasher) -> str:
    """A hash of no password, which takes as long to verify as any other: for accounts that do not exist.

    It is not computed, so that the start needs no memory for it.
    """
    salt, digest = (
        base64.b64encode(secrets.token_bytes(size)).decode().rstrip("=") for size in (hasher.salt_len, hasher.hash_len)
    )
    cost = f"m={hasher.memory_cost},t={hasher.time_cost},p={hasher.parallelism}"
    return f"$argon2id$v={ARGON2_VERSION}${cost}${salt}${digest}"


def _reason(error: Exception) -> str:
    if isinstance(error, ValueError):
        return "a stored hash is invalid; select id from users where password_hash not like '$argon2id$%'"
    return str(error) or type(error).__name__


def _lower_priority() -> None:
    """Lower the priority of this thread, where the system allows it."""
    if sys.platform == "linux":  # on other systems a thread has no nice value of its own
        try:
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), os.getpriority(os.PRIO_PROCESS, 0) + NICENESS)
        except OSError as error:
            _log_priority(error.strerror)


@cache
def _log_priority(reason: str) -> None:
    """Log this once, not for each thread."""
    logger.warning("passwords are hashed with the same priority as the event loop: setpriority: %s", reason)
