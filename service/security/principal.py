"""The principal of a request: who is calling."""

from msgspec import Struct

from service.database.database import Database
from service.errors import InvalidToken
from service.queries import users
from service.structs.users import User


class Principal(Struct, frozen=True, gc=False):
    """The user to whom the bearer token of a request was issued."""

    user_id: int


async def select_account(db: Database, principal: Principal) -> User:
    """Read the principal's account. Raises ``InvalidToken`` if it no longer exists.

    Routes call this only where their own statement does not tell: who owns a post exists, and a new post without a user
    violates its foreign key. A read for every request would cost each of them.
    """
    if (account := await users.select(db, principal.user_id)) is None:
        raise InvalidToken
    return account
