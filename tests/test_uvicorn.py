"""The internals of uvicorn that service/server/ relies on: a version that changes one of them fails here."""

import inspect
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from uvicorn.config import STARTUP_FAILURE
from uvicorn.server import ServerState
from uvicorn.supervisors import multiprocess

from service.server.server import Config, Server
from service.server.supervisor import Supervisor, WorkerProcess
from tests.conftest import settings_of

# The import of our supervisor replaces multiprocess.Process.
UvicornProcess: Any = WorkerProcess.__bases__[0]


def test_the_installed_version_is_the_minor_version_that_is_pinned(repository: Path) -> None:
    major, minor, *_ = version("uvicorn").split(".")

    assert f'"uvicorn>={major}.{minor},<{major}.{int(minor) + 1}"' in (repository / "pyproject.toml").read_text()


@pytest.mark.parametrize(("ours", "theirs"), [(Server, uvicorn.Server), (Supervisor, multiprocess.Multiprocess)])
def test_every_method_that_is_overridden_exists_and_takes_the_same_arguments(ours: Any, theirs: Any) -> None:
    overridden = {name for name in vars(ours) if callable(getattr(theirs, name, None))} - {"__init__", "__doc__"}

    assert (
        overridden
        >= {
            Server: {"capture_signals", "handle_exit", "main_loop", "on_tick", "startup", "shutdown"},
            Supervisor: {"run", "keep_subprocess_alive", "join_all", "handle_hup", "handle_ttin", "handle_ttou"},
        }[ours]
    )
    for name in overridden:
        assert list(inspect.signature(getattr(ours, name)).parameters) == list(
            inspect.signature(getattr(theirs, name)).parameters
        ), name


@pytest.mark.parametrize(
    ("function", "used"),
    [
        # uvicorn calls each method that we override, and uses each attribute that we read or set as we do.
        (uvicorn.Server._serve, ["self.lifespan", "self.startup(", "self.main_loop(", "self.shutdown("]),
        (uvicorn.Server.serve, ["self.capture_signals("]),
        (uvicorn.Server.startup, ["self.lifespan.startup()", "for sock in sockets", "self.servers"]),
        (uvicorn.Server.main_loop, ["await self.on_tick("]),
        (uvicorn.Server.on_tick, ["self.server_state.default_headers", "return True", "self.should_exit"]),
        (
            uvicorn.Server.shutdown,
            [
                "list(self.server_state.connections)",
                "connection.shutdown()",
                "self.config.timeout_graceful_shutdown",
                "self.lifespan.shutdown()",
            ],
        ),
        (uvicorn.Server._wait_tasks_to_complete, ["self.server_state.connections", "self.server_state.tasks"]),
        (UvicornProcess.__init__, ["get_subprocess(config, self.target, sockets)"]),
        (UvicornProcess.target, ["self.server.run(sockets)"]),
        (UvicornProcess.pong, ["self.server.started"]),
        (multiprocess.Multiprocess.__init__, ["self.sockets", "self.processes", "self.signal_queue"]),
        (multiprocess.Multiprocess.init_processes, ["Process(self.config, self.sockets)"]),
        (
            multiprocess.Multiprocess.keep_subprocess_alive,
            ["Process(self.config, self.sockets)", "process.join()", "STARTUP_FAILURE"],
        ),
        (
            multiprocess.Multiprocess.run,
            ["self.keep_subprocess_alive()", "self.terminate_all()", "self.join_all()"],
        ),
        (multiprocess.Multiprocess.handle_signals, ['f"handle_{sig_name.lower()}"']),
    ],
    ids=lambda value: getattr(value, "__qualname__", ""),
)
def test_uvicorn_s_source_contains_what_we_rely_on(function: Any, used: list[str]) -> None:
    source = inspect.getsource(function)

    for piece in used:
        assert piece in source


def test_uvicorn_s_supervisor_starts_our_processes() -> None:
    assert multiprocess.Process is WorkerProcess


def test_a_worker_that_cannot_start_has_an_exit_code_of_its_own() -> None:
    assert STARTUP_FAILURE not in {0, 1}


def test_the_server_state_has_the_attributes_that_connections_share() -> None:
    assert vars(ServerState()).keys() >= {"connections", "tasks", "default_headers", "total_requests"}


def test_the_configuration_builds_the_app_in_the_process_that_serves() -> None:
    settings = settings_of()
    config = Config(settings, log_config=None)

    assert not config.loaded
    config.load()
    assert config.loaded_app.app.state["settings"] is settings
