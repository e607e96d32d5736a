"""SQL for logins."""

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


# It replaces only the hash that was verified, so a password that was changed meanwhile is not restored.
UPDATE_HASH: Final = """
update users
set password_hash = $3
where
    id = $1
    and password_hash = $2
returning id
"""


async def update_hash(db: Database, user_id: int, old: str, new: str) -> bool:
    """Replace a hash by a new one of the same password. Returns ``False`` if the old one is no longer stored."""
    return await db.write_row(UPDATE_HASH, user_id, old, new) is not None
