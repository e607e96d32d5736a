"""The fingerprint of the signing key: a service notices that another one uses the database with another key."""

import hashlib
import hmac
from typing import Final

from service.database.connecting import connect

# Not the beginning of a token, so the fingerprint is never the signature of one.
_MESSAGE: Final = b"fingerprint of the signing key"

# The new fingerprint replaces the old one, so a rotation of the key is reported once. The statement decides, also
# between services that start at the same time. It returns no row if the key is the same, and false if the old
# fingerprint is that of SECRET_KEY_PREVIOUS, whose tokens are accepted.
UPSERT: Final = """
insert into signing_key as stored (fingerprint)
values ($1)
on conflict (is_only_row) do update
    set
        fingerprint = excluded.fingerprint,
        changed_at = now()
    where stored.fingerprint <> excluded.fingerprint
returning
    changed_at is not null
    -- This reads the row as it was before the statement: none if another service inserts it at the same time.
    and coalesce(
        (
            select replaced.fingerprint
            from signing_key as replaced
        ) <> $2, true
    )
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
        return bool(
            await connection.fetchval(UPSERT, fingerprint(secret_key), fingerprint(previous) if previous else None)
        )
    finally:
        await connection.close()
