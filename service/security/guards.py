"""The guards of routes."""

from typing import Any

from litestar.connection import ASGIConnection
from litestar.handlers import BaseRouteHandler
from litestar.types import Guard

from service.errors import OnlyOwnerMayDelete, OnlyOwnerMayUpdate, PostNotFound
from service.queries import posts, sessions
from service.structs.fields import is_id
from service.structs.sessions import Principal

Connection = ASGIConnection[Any, Principal, Any, Any]


async def requires_session(connection: Connection, _: BaseRouteHandler) -> None:
    """Admit only a session that is alive, before the body is read. Raises ``InvalidToken``.

    The statement of the route decides again. Routes need this guard only if no statement comes before the body.

    A route without guards asks this only after an invalid id or body, so that 401 comes before 404 and 422.
    """
    await sessions.require_alive(connection.app.state["db"], connection.user)


def requires_post_ownership(otherwise: type[OnlyOwnerMayUpdate | OnlyOwnerMayDelete]) -> Guard:
    """Admit only the owner of a post. Raises ``PostNotFound``, or ``otherwise`` for other users.

    Raises ``InvalidToken`` if the session of the request has ended.

    The guard runs before the body is read and tells 404 from 403. The writing statement names session and owner again
    and decides, so nothing depends on what happens between the two.
    """

    async def guard(connection: Connection, _: BaseRouteHandler) -> None:
        db, text = connection.app.state["db"], connection.path_params["post_id"]
        if not is_id(text):
            await sessions.require_alive(db, connection.user)
            raise PostNotFound
        owner_id = await posts.select_owner(db, int(text), connection.user)
        if owner_id is None:
            raise PostNotFound
        if owner_id != connection.user.user_id:
            raise otherwise

    return guard
