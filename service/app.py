"""Builds the application."""

from typing import Any, Final

from litestar import Litestar
from litestar.datastructures import State

from service import settings
from service.controllers.auth import AuthController
from service.controllers.docs import DocsController
from service.controllers.health import HealthController
from service.controllers.posts import PostController
from service.controllers.users import UserController
from service.http import openapi
from service.http.application import Application
from service.http.problems import respond
from service.http.requests import Request
from service.http.routes import RouteRules
from service.observability.database import database_class
from service.security.passwords import Passwords
from service.security.tokens import Tokens
from service.settings import Settings
from service.structs.fields import TYPE_DECODERS

MAX_BODY_BYTES: Final = 1024 * 1024

API: Final = (AuthController, UserController, PostController, HealthController)


def create_app(given: Settings | None = None) -> Litestar:
    """Build the application from ``given`` settings, else from the environment's. Raises ``SettingsError``."""
    chosen = given or settings.load()
    db = database_class(chosen)(
        chosen.database_url, connections=chosen.database_connections, timeout=chosen.database_timeout_seconds
    )
    passwords = Passwords(
        memory_kib=chosen.password_memory_kib,
        passes=chosen.password_passes,
        lanes=chosen.password_lanes,
        threads=chosen.password_threads,
        queue=chosen.password_queue,
    )
    state: dict[str, Any] = {
        "settings": chosen,
        "db": db,
        "passwords": passwords,
        "tokens": Tokens(chosen.secret_key, lifetime=chosen.access_token_minutes * 60),
        "openapi": openapi.document(API),
    }
    return Application(
        route_handlers=[*API, DocsController],
        state=State(state, deep_copy=False),
        lifespan=[db.lifespan()],
        on_shutdown=[passwords.close],
        plugins=[RouteRules()],
        request_class=Request,
        request_max_body_size=MAX_BODY_BYTES,
        type_decoders=TYPE_DECODERS,
        exception_handlers={Exception: respond},
        openapi_config=None,
        logging_config=None,
    )
