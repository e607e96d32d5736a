"""uvicorn as this service runs it."""

from typing import Any, Final

import uvicorn

from service.settings import Settings

LOGGING: Final[dict[str, Any]] = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "%(asctime)s %(levelname)s %(name)s: %(message)s"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
    "root": {"handlers": ["stderr"], "level": "INFO"},
}


# What holds however the server is started, by the tests as well.
OPTIONS: Final[dict[str, Any]] = {
    "http": "httptools",
    "ws": "none",
    "lifespan": "on",
    "access_log": False,
    "server_header": False,
    # The client's address is the peer's; nobody may claim another by a header.
    "proxy_headers": False,
}


def serve(settings: Settings) -> None:
    """Serve until SIGINT or SIGTERM. Every worker builds the app from the same environment."""
    uvicorn.run(
        "service.app:create_app",
        factory=True,
        host=settings.host,
        port=settings.port,
        workers=settings.workers,
        loop="uvloop",
        log_config=LOGGING,
        **OPTIONS,
    )
