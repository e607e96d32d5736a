"""What an OpenAPI document cannot say: which parameters of a list exclude each other, and that a key is used once."""

import uuid
from typing import Any

import schemathesis


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: Any) -> None:  # noqa: ARG001 - schemathesis's parameters
    """Remove from a valid request what is not valid beside the rest of it, or beside an earlier request."""
    if case.path != "/posts" or not case.meta or not case.meta.generation.mode.is_positive:
        return
    if "Idempotency-Key" in (case.headers or {}):
        case.headers["Idempotency-Key"] = str(uuid.uuid4())
    query = case.query or {}
    if "q" in query:
        query.pop("sort", None)
        query.pop("after", None)
    elif isinstance(query.get("after"), str):
        del query["after"]
