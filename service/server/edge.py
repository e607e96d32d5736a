"""What the server adds around the app. It is decided at start: what no setting asks for costs nothing."""

from typing import Any, Final

from litestar import Litestar
from litestar.types import ASGIApp

from service.http.cors import CrossOrigin, Preflights
from service.http.forwarded import ForwardedHeaders
from service.http.headers import Field
from service.server.shedding import LoadShedding
from service.server.state import FieldsFor
from service.settings import Settings

# For a year. Not for subdomains, which may belong to others.
STRICT_TRANSPORT_SECURITY: Final = Field(b"strict-transport-security", b"max-age=31536000")


def wrap(app: Litestar, settings: Settings) -> ASGIApp:
    """The app with load shedding and, if the settings ask for them, preflights and forwarded header fields."""
    wrapped: ASGIApp = LoadShedding(app, settings.max_requests)
    if settings.cors_origins:
        wrapped = Preflights(wrapped, CrossOrigin(settings.cors_origins))
    if settings.trusted_proxies:
        wrapped = ForwardedHeaders(wrapped, settings.trusted_proxies)
    return wrapped


def fields_for(settings: Settings) -> FieldsFor | None:
    """A function from the scope of a request to the fields that every response to it has, errors included."""
    if not (settings.cors_origins or settings.trusted_proxies):
        return None
    cross_origin = CrossOrigin(settings.cors_origins).fields if settings.cors_origins else lambda _: ()

    def fields(scope: Any) -> tuple[Field, ...]:
        added = cross_origin(scope["headers"])
        # Only a trusted proxy can have changed the scheme: the service itself speaks plain HTTP.
        return (*added, STRICT_TRANSPORT_SECURITY) if scope.get("scheme") == "https" else added

    return fields
