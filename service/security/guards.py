"""Who may write a post."""

from typing import Any

from litestar.connection import ASGIConnection
from litestar.handlers import BaseRouteHandler
from litestar.types import Guard

from service.errors import InvalidToken, OnlyOwnerMayDelete, OnlyOwnerMayUpdate, PostNotFound
from service.queries import posts, users
from service.structs.fields import PostId, parse_id

Connection = ASGIConnection[Any, Any, Any, Any]


def requires_post_ownership(otherwise: type[OnlyOwnerMayUpdate | OnlyOwnerMayDelete]) -> Guard:
    """Let only a post's owner through. Raises ``PostNotFound``, or ``otherwise`` to strangers.

    Who owns a post has an account; of others the guard raises ``InvalidToken`` where theirs is gone.

    It runs before the body is read and tells 404 from 403. The writing statement names the owner again and decides,
    so nothing depends on what happens between the two.
    """

    async def guard(connection: Connection, _: BaseRouteHandler) -> None:
        post_id = parse_id(PostId, connection.path_params["post_id"])
        db = connection.app.state["db"]
        owner_id = await posts.select_owner(db, post_id)
        if owner_id == connection.user:
            return
        if await users.select(db, connection.user) is None:
            raise InvalidToken
        raise PostNotFound if owner_id is None else otherwise

    return guard
