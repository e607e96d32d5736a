"""Data directories of PostgreSQL that tests copy, which takes less time than ``initdb``."""

from pathlib import Path

import pytest

from service.development import embedded
from tests.faults import cluster


@pytest.fixture(scope="session")
def initialized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory as the first ``just up`` creates it."""
    data = tmp_path_factory.mktemp("initialized") / "postgres"
    embedded.prepare(data, announce=lambda _: None)
    return data


@pytest.fixture
def created_data(initialized: Path, environment: dict[str, str]) -> None:
    """``just up`` finds the data directory that it would otherwise create."""
    folder = Path(environment["DATA_DIRECTORY"])
    folder.mkdir()
    cluster.copy(initialized, folder / "postgres")


@pytest.fixture(scope="session")
def cluster_data(initialized: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data directory of a new cluster."""
    data = tmp_path_factory.mktemp("cluster") / "postgres"
    cluster.copy(initialized, data)
    cluster.configure(data)
    return data
