"""Docker Compose, which is a plugin of Docker's client."""

import shutil
import subprocess
from typing import Final


def _find() -> str | None:
    docker = shutil.which("docker")
    works = docker and subprocess.run([docker, "compose", "version"], capture_output=True, check=False).returncode == 0  # noqa: S603
    return docker if works else None


DOCKER: Final = _find()
