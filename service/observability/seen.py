"""What is recorded about a request."""

from typing import TypeAlias

# Method, template of the route, and status. The texts are empty if they are not known.
Kind: TypeAlias = tuple[str, str, int]

# Its kind, seconds, client, user id and request id. The client is empty if it is not known. Plain tuples, because an
# object of a class would cost more than all else.
Seen: TypeAlias = tuple[Kind, float, str, int | None, bytes]
