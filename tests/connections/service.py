"""The service as a process, its database, and measurements of both from outside."""

import asyncio
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from time import monotonic
from typing import Final

import asyncpg
import httpx
import psutil

from tests.connections.histories import History
from tests.connections.messages import FIRST_OWN_POST, PUBLIC_CONTENT, PUBLIC_POSTS, Account
from tests.connections.model import Stored

CHECKOUT: Final = Path(__file__).parents[2]
START_LIMIT: Final = 30  # seconds until the service has started
POOL: Final = 5
SECRET_KEY: Final = "0123456789abcdef" * 4
UNEXPECTED: Final = re.compile(r"Traceback| ERROR |never retrieved|was destroyed|Exception ignored|Unhandled|leaked")

INSERT_POSTS: Final = """
insert into posts (id, title, content, user_id)
overriding system value
select post_id, 'title', $2, (select id from users where username = 'model')
from unnest($1::bigint[]) as post_id
"""
# The next id is above those of the public posts and of the other posts that the service has inserted.
RESTART_IDS: Final = """
select setval(pg_get_serial_sequence('posts', 'id'), greatest($1::bigint, (select max(id) from posts where id < $2)))
"""
DELETE_POSTS: Final = "delete from posts where id = any($1) or title = any($2)"
TERMINATE: Final = """
select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()
"""
SELECT_TITLES: Final = "select title, count(*) from posts where title = any($1) group by title"
SELECT_IDS: Final = "select id from posts where id = any($1)"
SELECT_SESSIONS: Final = """
select count(*) as connections, count(xact_start) filter (where state <> 'active') as transactions
from pg_stat_activity
where datname = current_database() and application_name = 'accounts-and-posts'
"""


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        await connection.close()


class Service:
    """``python -m service`` on a database that has its schema."""

    def __init__(self, database_url: str, log: Path, **settings: str) -> None:
        self.database_url = database_url
        self.port = 0  # until it has started
        self.log = log
        self.settings = settings
        self.workers = int(settings.get("WORKERS", "1"))

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Returns when all workers serve, and the database holds the account and the public posts."""
        environment = {
            "PATH": os.environ["PATH"],
            "DATABASE_URL": self.database_url,
            "DATABASE_CONNECTIONS": str(POOL),
            "SECRET_KEY": SECRET_KEY,
            "PORT": "0",
            "PASSWORD_MEMORY_KIB": "8",
            "PASSWORD_PASSES": "1",
            **self.settings,
        }
        with self.log.open("w") as log:
            self.process = subprocess.Popen(  # noqa: ASYNC220 - it takes a moment
                [sys.executable, "-m", "service"],
                cwd=CHECKOUT,
                env=environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        last = monotonic() + START_LIMIT
        while self.read_log().count("running on http") < self.workers:
            assert self.process.poll() is None, self.read_log()
            assert monotonic() < last, self.read_log()
            await asyncio.sleep(0.05)
        self.port = int(re.findall(r"running on http://127\.0\.0\.1:(\d+)", self.read_log())[0])
        self.account = await register(self.address)
        await insert_public_posts(self.database_url)

    def read_log(self) -> str:
        return self.log.read_text()

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    async def wait(self, seconds: float) -> int | None:
        """The exit code, or ``None`` if the process still runs after ``seconds``."""
        last = monotonic() + seconds
        while self.process.poll() is None and monotonic() < last:
            await asyncio.sleep(0.01)
        return self.process.poll()

    def kill(self) -> None:
        """Kill the process and all processes that it started, in whatever state they are."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def serving(self) -> list[psutil.Process]:
        """The processes that serve: the workers, or the only one."""
        only = psutil.Process(self.process.pid)
        if self.workers == 1:
            return [only]
        children = []
        for child in only.children():
            with suppress(psutil.Error):
                if "resource_tracker" not in " ".join(child.cmdline()) and child.status() != psutil.STATUS_ZOMBIE:
                    children.append(child)
        return children

    def client_ports(self, process: psutil.Process) -> set[int]:
        """The ports of the clients that are connected to a process."""
        with suppress(psutil.NoSuchProcess):
            return {
                known.raddr.port
                for known in process.net_connections("tcp")
                if known.laddr.port == self.port and known.raddr and known.status != psutil.CONN_LISTEN
            }
        return set()

    def connections(self) -> int:
        return sum(len(self.client_ports(process)) for process in self.serving())

    def descriptors(self) -> int:
        """Open file descriptors, without those of connections to clients and to the database."""
        return sum(process.num_fds() - len(process.net_connections("all")) for process in self.serving())

    def memory(self) -> int:
        """Resident bytes."""
        return sum(int(process.memory_info().rss) for process in self.serving())

    def cpu_seconds(self) -> float:
        return sum(sum(process.cpu_times()[:2]) for process in self.serving())

    def unexpected_log_lines(self, expected: str = "^$") -> list[str]:
        """Errors in the log, with the lines that follow, except for lines that match ``expected``."""
        lines = self.read_log().splitlines()
        bad = [at for at, line in enumerate(lines) if UNEXPECTED.search(line) and not re.search(expected, line)]
        return ["\n".join(lines[at : at + 30]) for at in bad[:3]]


async def register(address: str) -> Account:
    body = {"username": "model", "email": "model@example.com", "password": "the password of the model"}
    async with httpx.AsyncClient(base_url=address, trust_env=False, timeout=30) as client:
        (await client.post("/auth/register", json=body)).raise_for_status()
        login = await client.post("/auth/token", data={"username": body["username"], "password": body["password"]})
        return Account(body["username"], body["password"], login.raise_for_status().json()["access_token"])


async def insert_public_posts(url: str) -> None:
    await insert_posts(url, range(1, PUBLIC_POSTS + 1), PUBLIC_CONTENT)


async def insert_posts(url: str, ids: Iterable[int], content: str = "x") -> None:
    async with connected(url) as connection:
        await connection.execute(INSERT_POSTS, list(ids), content)
        await connection.execute(RESTART_IDS, PUBLIC_POSTS, FIRST_OWN_POST)


async def prepare(url: str, histories: Sequence[History]) -> None:
    """Insert the posts that the histories change and delete, and delete posts that an earlier run of them wrote."""
    messages = [message for history in histories for message in history.messages]
    ids = [message.post_id for message in messages if message.post_id >= FIRST_OWN_POST]
    async with connected(url) as connection:
        await connection.execute(DELETE_POSTS, ids, [message.marker for message in messages if message.marker])
    await insert_posts(url, ids)


async def stored(url: str, histories: Sequence[History]) -> Stored:
    """The posts of the histories that the database holds."""
    messages = [message for history in histories for message in history.messages]
    async with connected(url) as connection:
        rows = await connection.fetch(SELECT_TITLES, [message.marker for message in messages if message.marker])
        ids = await connection.fetch(SELECT_IDS, [message.post_id for message in messages if message.post_id])
    return Stored(Counter({row["title"]: row["count"] for row in rows}), {row["id"] for row in ids})


async def sessions(url: str) -> tuple[int, int]:
    """The number of connections of the service to its database, and how many of them are idle in a transaction."""
    async with connected(url) as connection:
        [row] = await connection.fetch(SELECT_SESSIONS)
        return row["connections"], row["transactions"]
