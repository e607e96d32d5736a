"""Failed logins and their limits: how often a password may be guessed.

Failures are counted in PostgreSQL, so that all processes agree. The attempts that this process verifies at a time are
counted here, because a failure is stored only after its password has been hashed: without that, a thousand attempts
that arrive together would all be verified.
"""

import asyncio
import hashlib
import hmac
import ipaddress
from datetime import timedelta
from typing import Final
from weakref import WeakValueDictionary

from service.database.database import Database
from service.errors import IncorrectPassword, TooManyAttempts, TooManyPasswords
from service.queries import account, auth
from service.security.passwords import Passwords
from service.structs.auth import Credentials, LoginAddress, LoginRules, LoginSubjects
from service.structs.sessions import Principal

REGISTRATION_WINDOW: Final = timedelta(hours=1)


class Logins:
    """Verifies passwords of accounts, within the limits."""

    def __init__(self, passwords: Passwords, key: bytes, rules: LoginRules, registrations_per_hour: int) -> None:
        """``key`` hides the names and addresses in the database."""
        self._passwords = passwords
        self._key = key
        self._rules = rules
        self._registrations_per_hour = registrations_per_hour
        # Held by the attempts themselves, so that nothing remains of a subject without attempts.
        self._attempts: WeakValueDictionary[bytes, _Attempts] = WeakValueDictionary()

    async def verify(self, db: Database, username: str, password: str, address: str) -> tuple[Credentials | None, bool]:
        """Return the account, and whether the password is correct. Raises ``TooManyAttempts`` or ``TooManyPasswords``.

        An attempt with a name that no account has takes the same time and the same statements.
        """
        network = network_of(address)
        subjects = LoginSubjects(
            self._digest("account", username),
            self._digest("address", network),
            self.login_address(username, address).subject,
        )
        attempts = {subject: self._attempts_of(subject) for subject in subjects}
        while True:
            finished = [one.finished for one in attempts.values()]
            state = await auth.select_login(db, username, network, subjects, self._rules)
            if wait := max((count.wait for count in state.counts), default=0):
                raise TooManyAttempts(headers={"Retry-After": str(wait)})
            if finished != [one.finished for one in attempts.values()]:
                continue  # a failure may have been stored after it was read
            # The attempts in flight may all fail, so only as many are made as may still fail. Without any in flight
            # there is nothing to wait for.
            full = [
                attempts[one.subject]
                for one in state.counts
                if 0 < attempts[one.subject].in_flight >= one.limit - one.failures
            ]
            if not full:
                break
            if full[0].waiting >= self._passwords.capacity:
                raise TooManyPasswords
            await full[0].wait()
        in_flight = [attempts[one.subject] for one in state.counts]
        for one in in_flight:
            one.begin()
        is_stored = False
        try:
            if await self._passwords.verify(password, state.account.password_hash if state.account else None):
                return state.account, True
            await auth.insert_failure(db, state.counts)
            is_stored = True
        finally:
            for one in in_flight:
                one.end(failure_is_stored=is_stored)
        return state.account, False

    async def verify_own(self, db: Database, principal: Principal, password: str, address: str) -> Credentials:
        """Verify the password of the principal's account. It counts as a login if it fails.

        Raises ``IncorrectPassword``, ``InvalidToken``, ``TooManyAttempts`` or ``TooManyPasswords``.
        """
        user = await account.select(db, principal)
        verified, is_correct = await self.verify(db, user.username, password, address)
        if verified is None or not is_correct or verified.id != principal.user_id:
            raise IncorrectPassword
        return verified

    def login_address(self, username: str, address: str) -> LoginAddress:
        """What a successful login stores about its address."""
        network = network_of(address)
        return LoginAddress(network, self._digest("account at address", username, network))

    async def count_registration(self, db: Database, address: str) -> None:
        """Count a registration from an address. Raises ``TooManyAttempts``."""
        if not (limit := self._registrations_per_hour):
            return
        subject = self._digest("registration", network_of(address))
        if not await auth.insert_registration(db, subject, limit, REGISTRATION_WINDOW):
            wait = await auth.select_wait(db, subject, limit, REGISTRATION_WINDOW)
            raise TooManyAttempts(headers={"Retry-After": str(wait)})

    def _attempts_of(self, subject: bytes) -> "_Attempts":
        return self._attempts.setdefault(subject, _Attempts())

    def _digest(self, kind: str, *values: str) -> bytes:
        return hmac.digest(self._key, "\0".join((kind, *values)).encode(), hashlib.sha256)


class _Attempts:
    """The attempts of one subject that this process is verifying."""

    def __init__(self) -> None:
        self.in_flight = 0
        self.finished = 0
        self.waiting = 0
        self._room = asyncio.Event()

    def begin(self) -> None:
        self.in_flight += 1

    def end(self, *, failure_is_stored: bool) -> None:
        """End an attempt, after its failure is stored if it is one."""
        self.in_flight -= 1
        self.finished += 1
        # A failure that is stored takes the place of its attempt, so those that wait need not look again. The last one
        # must wake them: there is nothing left to wait for.
        if not failure_is_stored or not self.in_flight:
            self._room.set()
            self._room = asyncio.Event()

    async def wait(self) -> None:
        """Wait until another attempt may be possible."""
        self.waiting += 1
        try:
            await self._room.wait()
        finally:
            self.waiting -= 1


def network_of(address: str) -> str:
    """What counts as one address: an IPv4 address, or the /64 network of an IPv6 address."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:  # a Unix socket
        return address
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped:
            return str(parsed.ipv4_mapped)
        return str(ipaddress.ip_network((parsed, 64), strict=False))
    return str(parsed)
