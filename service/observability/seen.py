"""What is recorded about a request."""

from typing import TypeAlias

# Method, template of the route, status, seconds, client, user id, request id, and the ``time.perf_counter`` of the end.
# Texts that are not known are empty. A plain tuple, because an object of a class would cost more than all else.
Seen: TypeAlias = tuple[str, str, int, float, str, int | None, bytes, float]
