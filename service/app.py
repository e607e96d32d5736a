"""Builds the application."""

from datetime import timedelta
from typing import Any, Final

from litestar import Litestar
from litestar.datastructures import State

from service import settings
from service.controllers.account import AccountController
from service.controllers.auth import AuthController
from service.controllers.docs import DocsController
from service.controllers.health import HealthController
from service.controllers.posts import PostController
from service.controllers.sessions import SessionController
from service.controllers.users import UserController
from service.http import openapi
from service.http.application import Application
from service.http.problems import respond
from service.http.requests import Request
from service.http.routes import RouteRules
from service.observability.database import create_database
from service.security.cleanup import Cleanup
from service.security.denylist import Denylist
from service.security.keys import ACCESS_TOKEN, LOGIN_FAILURES, REFRESH_TOKEN, SEARCH_POSITION, Keys, SecretKey
from service.security.logins import Logins
from service.security.passwords import Passwords
from service.security.positions import SearchPositions
from service.security.refresh_tokens import RefreshTokens
from service.security.tokens import AccessTokens
from service.settings import Settings
from service.structs.auth import LoginRules
from service.structs.fields import TYPE_DECODERS
from service.structs.sessions import Lifetimes

MAX_BODY_BYTES: Final = 1024 * 1024

API: Final = (AuthController, AccountController, UserController, PostController, SessionController, HealthController)


def create_app(given: Settings | None = None) -> Litestar:
    """Build the application from ``given`` settings, else from the environment's. Raises ``SettingsError``."""
    chosen = given or settings.load()
    db = create_database(chosen)
    passwords = Passwords(
        memory_kib=chosen.password_memory_kib,
        passes=chosen.password_passes,
        lanes=chosen.password_lanes,
        threads=chosen.password_threads,
        queue=chosen.password_queue,
    )
    rules = LoginRules(
        per_account=chosen.login_failures_per_account,
        per_address=chosen.login_failures_per_address,
        window=timedelta(minutes=chosen.login_window_minutes),
        address_known_for=timedelta(days=chosen.known_address_days),
    )
    secrets = tuple(SecretKey(key) for key in (chosen.secret_key, chosen.secret_key_previous) if key)
    state: dict[str, Any] = {
        "settings": chosen,
        "db": db,
        "passwords": passwords,
        "denylist": Denylist(is_on=chosen.password_denylist == "on"),  # noqa: S105 - a switch
        "logins": Logins(passwords, secrets[0].derive(LOGIN_FAILURES), rules, chosen.registrations_per_hour),
        "access_tokens": AccessTokens(Keys(secrets, ACCESS_TOKEN), lifetime=chosen.access_token_minutes * 60),
        "refresh_tokens": RefreshTokens(Keys(secrets, REFRESH_TOKEN)),
        "search_positions": SearchPositions(Keys(secrets, SEARCH_POSITION)),
        "lifetimes": Lifetimes(
            idle=timedelta(days=chosen.refresh_token_days),
            longest=timedelta(days=chosen.session_days),
            grace=timedelta(seconds=chosen.refresh_grace_seconds),
        ),
        "openapi": openapi.document(API),
    }
    return Application(
        route_handlers=[*API, DocsController],
        state=State(state, deep_copy=False),
        lifespan=[db.lifespan(), Cleanup(db, rules).lifespan()],
        on_shutdown=[passwords.close],
        plugins=[RouteRules()],
        request_class=Request,
        request_max_body_size=MAX_BODY_BYTES,
        type_decoders=TYPE_DECODERS,
        exception_handlers={Exception: respond},
        openapi_config=None,
        logging_config=None,
    )
