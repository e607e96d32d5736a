"""Argon2id (RFC 9106) in threads of its own, so that the event loop never waits for a hash."""

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


# Of the threads that hash: on a core that they share, the event loop goes first, and they still get a tenth of it.
NICENESS: Final = 10


class Passwords:
    """Hashes and checks passwords, a bounded number at a time.

    argon2 releases the GIL while it works. A caller holds no database connection while it waits here.
    """

    def __init__(self, *, memory_kib: int, passes: int, lanes: int, threads: int, queue: int) -> None:
        """``queue`` is how many passwords may be here at once, waiting or at work; one more is refused."""
        self._hasher = PasswordHasher(time_cost=passes, memory_cost=memory_kib, parallelism=lanes)
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="argon2", initializer=_step_back)
        self._room = queue
        # Checked where there is no account, so that its absence cannot be told from the time of the answer.
        self._nobody = self._hasher.hash(secrets.token_urlsafe())

    async def hash(self, password: str) -> str:
        """Hash a new password. Raises ``TooManyPasswords``."""
        return await self._run(lambda: self._hasher.hash(password))

    async def verify(self, password: str, stored: str | None) -> str | None:
        """Check a password against the stored hash, or against nobody's for an account that is not there.

        Returns ``None`` where it is wrong, else the hash to keep: ``stored`` itself, or a new one where that was made
        with other settings than today's. Raises ``TooManyPasswords``.
        """
        return await self._run(lambda: self._verify(password, stored))

    def _verify(self, password: str, stored: str | None) -> str | None:
        normalized = normalize(password, MAX_PASSWORD_LENGTH)
        if self._matches(normalized, stored):
            return self._hasher.hash(normalized) if stored and self._hasher.check_needs_rehash(stored) else stored
        # Before passwords were normalised, they were hashed as they were typed.
        if normalized != password and self._matches(password, stored):
            return self._hasher.hash(normalized)
        return None

    def _matches(self, password: str, stored: str | None) -> bool:
        try:
            self._hasher.verify(stored or self._nobody, password)
        except (VerificationError, InvalidHashError):
            return False
        return stored is not None

    async def _run(self, work: Callable[[], T]) -> T:
        if not self._room:
            raise TooManyPasswords
        self._room -= 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        finally:
            self._room += 1

    def close(self) -> None:
        self._threads.shutdown(cancel_futures=True)


def _step_back() -> None:
    if sys.platform == "linux":  # elsewhere a thread has no niceness of its own
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), os.getpriority(os.PRIO_PROCESS, 0) + NICENESS)
