"""The guards of routes."""

from typing import Any

from litestar.connection import ASGIConnection
from litestar.handlers import BaseRouteHandler
from litestar.types import Guard

from service.errors import OnlyOwnerMayDelete, OnlyOwnerMayUpdate, PostNotFound
from service.queries import posts
from service.security.principal import Principal, select_account
from service.structs.fields import PostId, parse_id

Connection = ASGIConnection[Any, Principal, Any, Any]


def requires_post_ownership(otherwise: type[OnlyOwnerMayUpdate | OnlyOwnerMayDelete]) -> Guard:
    """Admit only the owner of a post. Raises ``PostNotFound``, or ``otherwise`` for other users.

    Raises ``InvalidToken`` if the principal is not the owner and their account no longer exists.

    The guard runs before the body is read and tells 404 from 403. The writing statement names the owner again and
    decides, so nothing depends on what happens between the two.
    """

    async def guard(connection: Connection, _: BaseRouteHandler) -> None:
        post_id = parse_id(PostId, connection.path_params["post_id"])
        db = connection.app.state["db"]
        owner_id = await posts.select_owner(db, post_id)
        if owner_id == connection.user.user_id:
            return
        await select_account(db, connection.user)
        raise PostNotFound if owner_id is None else otherwise

    return guard
