"""The comparison: for each route, the service and its peers in turn."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import msgspec
from msgspec import Struct

from tests.bench import chart, database, machine, processes, responses, routes, servers, wrk
from tests.bench.options import Options, progress, table
from tests.bench.rounds import in_turn
from tests.bench.routes import Route
from tests.bench.servers import BARE, SERVICE, Kind, Server
from tests.bench.wrk import Figures


class Report(Struct, frozen=True):
    """The result as JSON: figures by route and server, and current and peak memory in MiB by server."""

    machine: dict[str, str]
    database_alone: float
    routes: dict[str, dict[str, Figures]]
    memory: dict[str, tuple[float, float]]


def measure(options: Options) -> None:
    chosen = [
        route for route in routes.ROUTES if not options.route or any(part in route.name for part in options.route)
    ]
    kinds = [kind for kind in servers.ALL if not options.server or kind.name in ("service", *options.server)]
    kinds = [SERVICE] if options.against else _install(kinds)
    processes.stay_on(processes.CLIENT_CORE)
    with ExitStack() as stack:
        progress("starting PostgreSQL and the servers")
        postgres = stack.enter_context(database.started(servers.DIRECTORY))
        url = postgres.create("bench")
        database.seed(url, users=routes.USERS, posts_per_user=routes.POSTS_PER_USER)
        alone = database.alone(url, posts=routes.POSTS, seconds=options.seconds, directory=servers.DIRECTORY)
        # All at once: those that get no requests use no CPU.
        running = [stack.enter_context(servers.started(kind, url)) for kind in kinds]
        if options.against:
            other = Kind("against", f"the service in {options.against.name}", SERVICE.command)
            running.append(stack.enter_context(servers.started(other, url, checkout=options.against)))
        figures = {route.name: _measure_route(route, running, url, options) for route in chosen}
        memory = {server.kind.label: processes.memory_mib(server.pid) for server in running}
        report = Report(machine.describe(postgres), alone, figures, memory)
    _print(report, chosen)
    _write(report, options.svg)


def _install(kinds: Sequence[Kind]) -> list[Kind]:
    installable = []
    for kind in kinds:
        if missing := servers.missing_for(kind):
            progress(f"skipped: {kind.label}; it needs {missing}")
        else:
            installable.append(kind)
    progress(f"installing the peers into {servers.DIRECTORY}")
    servers.install(installable)
    return installable


def _measure_route(route: Route, running: Sequence[Server], url: str, options: Options) -> dict[str, Figures]:
    measured = [server for server in running if _has(server.kind, route)]
    responses.compare(measured, route)
    runs = {server.kind.label: partial(_run, route, server, url) for server in measured}
    return in_turn(route.name, runs, options)


def _has(kind: Kind, route: Route) -> bool:
    if kind is BARE:
        return BARE in route.targets
    return kind.command == SERVICE.command or not route.service_only


def _run(route: Route, server: Server, url: str, seconds: int) -> Figures:
    figures = wrk.measure(server, route.load, seconds)
    if route.writes:
        database.undo_writes(url, routes.POSTS)
    return figures


def _print(report: Report, measured: Sequence[Route]) -> None:
    rows = [row for route in measured for row in _rows(route, report.routes[route.name])]
    table(("", "requests/s", "p50 ms", "p99 ms", "CPU µs each", "not 2xx", "service is", "target"), *rows)
    table(
        ("resident memory, MiB", "now", "peak"),
        *((label, f"{now:.0f}", f"{peak:.0f}") for label, (now, peak) in report.memory.items()),
    )
    table(
        ("PostgreSQL alone (pgbench, prepared, a random post)", f"{report.database_alone:,.0f}/s"),
        *report.machine.items(),
    )


def _rows(route: Route, figures: Mapping[str, Figures]) -> Iterator[tuple[str, ...]]:
    yield (f"**{route.name}**", *[""] * 7)
    service = figures[SERVICE.label]
    targets = {kind.label: target for kind, target in route.targets.items()}
    for label, of_server in figures.items():
        ratio = service.requests_per_second / of_server.requests_per_second
        target = targets.get(label)
        yield (
            label,
            f"{of_server.requests_per_second:,.0f}",
            f"{of_server.p50:.2f}",
            f"{of_server.p99:.2f}",
            f"{of_server.cpu:.0f}",
            str(of_server.errors),
            "" if label == SERVICE.label else f"{ratio:.2f}x",
            f"≥ {target:g}x {'reached' if ratio >= target else 'missed'}" if target else "",
        )


def _write(report: Report, svg: Path) -> None:
    file = servers.DIRECTORY / "result.json"
    file.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=2))
    bars = {
        route: {label: run.requests_per_second for label, run in figures.items() if label != BARE.label}
        for route, figures in report.routes.items()
    }
    svg.write_text(chart.draw("Requests per second on one core", bars))
    progress(f"written: {file} and {svg}")
