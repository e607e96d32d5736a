"""The fingerprint of the signing key: a service notices that another one uses the database with another key."""

import hashlib
import hmac
from typing import Final

from service.database.connecting import connect

# Not the beginning of a token, so the fingerprint is never the signature of one.
_MESSAGE: Final = b"fingerprint of the signing key"

# Of services that start at once on a new database, one inserts the row.
INSERT: Final = """
insert into signing_key (fingerprint)
values ($1)
on conflict do nothing
returning is_only_row
"""

# The new fingerprint replaces the old one, so a rotation of the key is reported once. The lock makes this the old one
# also between services that start at once. There is no row if the key is the same.
UPDATE: Final = """
update signing_key
set
    fingerprint = $1,
    changed_at = now()
from (
    select
        is_only_row,
        fingerprint
    from signing_key
    for update
) as replaced
where
    signing_key.is_only_row = replaced.is_only_row
    and signing_key.fingerprint <> $1
returning replaced.fingerprint
"""


def fingerprint(secret_key: bytes) -> str:
    return hmac.digest(secret_key, _MESSAGE, hashlib.sha256).hex()


async def replaces_another(
    url: str,
    secret_key: bytes,
    previous: bytes = b"",
    *,
    timeout: float,  # noqa: ASYNC109 - as asyncpg
) -> bool:
    """Store the fingerprint of the key; returns whether it replaced that of another key than ``previous``.

    Raises asyncpg's errors.
    """
    connection = await connect(url, timeout=timeout)
    try:
        if await connection.fetchval(INSERT, fingerprint(secret_key)):
            return False
        replaced = await connection.fetchval(UPDATE, fingerprint(secret_key))
    finally:
        await connection.close(timeout=timeout)
    # The tokens of the previous key are accepted.
    return replaced not in {None, fingerprint(previous)}
