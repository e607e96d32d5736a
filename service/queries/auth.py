"""Logins in SQL."""

from typing import Final

from service.database.database import Database
from service.structs.auth import Credentials

SELECT_CREDENTIALS: Final = """
select
    id,
    password_hash
from users
where username = $1
"""


async def select_credentials(db: Database, username: str) -> Credentials | None:
    row = await db.fetch_row(SELECT_CREDENTIALS, username)
    return Credentials(*row) if row else None


# Only over the hash that was checked: a password that has changed meanwhile must not come back.
UPDATE_HASH: Final = """
update users
set password_hash = $3
where
    id = $1
    and password_hash = $2
returning id
"""


async def update_hash(db: Database, user_id: int, old: str, new: str) -> None:
    """Replace a hash that was made with older settings by one of the same password."""
    await db.write_row(UPDATE_HASH, user_id, old, new)
