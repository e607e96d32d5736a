"""Compose's view of compose.yaml. No container is started."""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest


def configuration(docker_compose: list[str], folder: Path) -> dict[str, Any]:
    """What Compose makes of the file in a folder."""
    command = [*docker_compose, "config", "--format", "json"]
    variables = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), "PWD": str(folder)}
    printed = subprocess.run(command, cwd=folder, env=variables, check=True, capture_output=True).stdout  # noqa: S603
    found: dict[str, Any] = json.loads(printed)
    return found


@pytest.fixture
def clones(repository: Path, tmp_path: Path) -> list[Path]:
    """Two clones in folders of the same name."""
    folders = [tmp_path / parent / "accounts-and-posts" for parent in ("first", "second")]
    for folder in folders:
        folder.mkdir(parents=True)
        shutil.copy(repository / "compose.yaml", folder)
    return folders


def test_two_clones_share_no_container_volume_or_image(docker_compose: list[str], clones: list[Path]) -> None:
    first, second = (configuration(docker_compose, clone) for clone in clones)

    assert first["name"] != second["name"]
    for kind in ("volumes", "networks"):
        names = [{made["name"] for made in found[kind].values()} for found in (first, second)]
        assert names[0]
        assert names[0].isdisjoint(names[1])
    assert first["services"]["service"]["image"] != second["services"]["service"]["image"]


def test_compose_reads_the_settings_of_a_clone_from_its_file(docker_compose: list[str], clones: list[Path]) -> None:
    (clones[0] / ".env").write_text("COMPOSE_PROJECT_NAME=mine\nWORKERS=3\nPORT=9000\nPOSTGRES_PASSWORD=better\n")

    found = configuration(docker_compose, clones[0])

    service = found["services"]["service"]
    assert found["name"] == "mine"
    assert service["environment"]["WORKERS"] == "3"
    assert service["ports"][0]["published"] == "9000"
    assert service["environment"]["PGPASSWORD"] == "better"
    assert found["services"]["db"]["environment"]["POSTGRES_PASSWORD"] == "better"
