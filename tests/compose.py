"""Docker Compose, as a program."""

import shutil
import subprocess
from typing import Final

_DOCKER: Final = shutil.which("docker")


def _has_compose(docker: str) -> bool:
    return subprocess.run([docker, "compose", "version"], check=False, capture_output=True).returncode == 0  # noqa: S603


# Docker, if it has Compose.
COMPOSE: Final = _DOCKER if _DOCKER and _has_compose(_DOCKER) else None
