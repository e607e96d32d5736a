"""The parameters of a route."""

import pytest
from litestar import Controller, Litestar
from litestar.exceptions import ImproperlyConfiguredException

from service.http.routes import get


class Asking(Controller):
    @get("/{name:str}")
    async def ask(self, name: str, limit: int = 5) -> str:
        return name * limit


@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning")
def test_a_parameter_that_is_not_in_the_path_stops_the_start() -> None:
    with pytest.raises(ImproperlyConfiguredException, match="limit is neither in the path"):
        Litestar([Asking])
