"""What a route takes."""

import pytest
from litestar import Controller, Litestar
from litestar.exceptions import ImproperlyConfiguredException

from service.http.routes import get


class Asking(Controller):
    @get("/{name:str}")
    async def ask(self, name: str, limit: int = 5) -> str:
        return name * limit


@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning")
def test_a_parameter_that_no_route_would_be_given_is_refused_at_the_start() -> None:
    with pytest.raises(ImproperlyConfiguredException, match="limit is neither in the path"):
        Litestar([Asking])
