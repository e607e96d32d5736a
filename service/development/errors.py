"""Why the embedded PostgreSQL cannot run."""


class EmbeddedError(Exception):
    """The message names the cause."""
