"""Password hashing with Argon2id (RFC 9106), in threads of its own so that the event loop does not block."""

import asyncio
import os
import secrets
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from service.errors import TooManyPasswords
from service.structs.fields import MAX_PASSWORD_LENGTH, normalize

T = TypeVar("T")


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
        # Verified if there is no account, so that the response takes the same time.
        self._dummy_hash = self._hasher.hash(secrets.token_urlsafe())

    @property
    def queued(self) -> int:
        """How many passwords are waiting or being hashed."""
        return self.capacity - self._free_slots

    async def hash(self, password: str) -> str:
        """Hash a password in its normal form. Raises ``TooManyPasswords``."""
        return await self._run(lambda: self._hasher.hash(normalize(password, MAX_PASSWORD_LENGTH)))

    async def verify(self, password: str, stored: str | None) -> bool:
        """Whether the password has the stored hash. Raises ``TooManyPasswords``.

        ``None``, for an account that does not exist, takes the same time and is never correct.
        """
        return await self._run(lambda: self._verify(password, stored or self._dummy_hash)) and stored is not None

    def _verify(self, password: str, stored: str) -> bool:
        normalized = normalize(password, MAX_PASSWORD_LENGTH)
        # Before passwords were normalised, they were hashed as they were typed.
        return self._matches(normalized, stored) or (normalized != password and self._matches(password, stored))

    def _matches(self, password: str, stored: str) -> bool:
        try:
            return self._hasher.verify(stored, password)
        except (VerificationError, InvalidHashError):
            return False

    async def needs_rehash(self, password: str, stored: str) -> bool:
        """Whether the hash of a correct password was made with other settings, or before passwords were normalised.

        Raises ``TooManyPasswords``.
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
        finally:
            self._free_slots += 1

    def close(self) -> None:
        self._threads.shutdown(cancel_futures=True)


def _lower_priority() -> None:
    if sys.platform == "linux":  # on other systems a thread has no nice value of its own
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), os.getpriority(os.PRIO_PROCESS, 0) + NICENESS)
