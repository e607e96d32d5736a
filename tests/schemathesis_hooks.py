"""What an OpenAPI document cannot say of ``GET /posts``: which parameters exclude each other."""

from typing import Any

import schemathesis


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: Any) -> None:  # noqa: ARG001 - schemathesis's parameters
    """Remove from a valid query what is not valid beside its other parameters."""
    query = case.query or {}
    if case.path != "/posts" or not case.meta or not case.meta.generation.mode.is_positive:
        return
    if "q" in query:
        query.pop("sort", None)
        query.pop("after", None)
    elif isinstance(query.get("after"), str):
        del query["after"]
