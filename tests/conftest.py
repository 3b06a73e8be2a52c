"""Real servers for the tests: one PostgreSQL and one RabbitMQ for the whole run, started when first
used.

Each test that names them has its own `database`, cloned from a migrated template, and its own
`broker`, a virtual host. `processor` and `api` are the real roles, as child processes, on that
database and broker.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import os
import shutil
import signal
import sys
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import aio_pika
import asyncpg
import httpx
import hypothesis
import psutil
import pytest

from manman_status.dev import ports
from manman_status.dev.ports import free_port
from manman_status.dev.postgres import EmbeddedPostgres
from manman_status.dev.rabbitmq import EmbeddedRabbitMQ
from manman_status.domain.liveness import Thresholds
from manman_status.store.migrate import migrate
from tests.kinds import Eventually, ProcessTree, Role, StartRole

TEMPLATE = "template_migrated"
# Disposable data needs no durability; a test that kills this server with the machine running loses
# nothing either.
CHEAP = {"fsync": "off", "full_page_writes": "off", "max_connections": "300"}

# A machine that stands still for a moment is no fault of an example.
hypothesis.settings.register_profile("unhurried", deadline=None)
hypothesis.settings.load_profile("unhurried")

# A shell's background job is born with SIGINT ignored, and so would be what the tests start and end
# by it. A handler that does nothing leaves this process as deaf as it was, and does not pass to
# children.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, lambda *_: None)

# A server that was stopped leaves its port free until it is started again: not for the tests that
# run beside it.
ports.PORTS = ports.PORTS[
    int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % 8 :: 8
]


@pytest.fixture(scope="session")
def server_folder() -> Iterator[Path]:
    """A folder for servers' data and logs that, unlike pytest's own, every user can reach."""
    folder = Path(tempfile.mkdtemp(prefix="manman-status-tests-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres(server_folder: Path) -> Iterator[EmbeddedPostgres]:
    server = EmbeddedPostgres(server_folder / "postgres", options=CHEAP).start()
    yield server
    server.kill()


class SharedRabbitMQ(EmbeddedRabbitMQ):
    """The node of all tests, with a virtual host for each.

    Every virtual host makes the next start of the node 0.1 s longer, so those of earlier tests are
    deleted. RabbitMQ 3.10 fails for good at one that is deleted while the dead-letter worker of a
    quorum queue in it is starting: as it does with the queue, and with the node.
    """

    REST_SECONDS = 20.0

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._ended: dict[str, float] = {}
        self._started_at = time.monotonic()

    @property
    def management_url(self) -> str:
        return f"http://guest:guest@127.0.0.1:{self.management_port}"

    def launch(self) -> None:
        super().launch()
        self._started_at = time.monotonic()

    def stop(self, *, within_seconds: float = 2.0) -> None:
        super().stop(within_seconds=within_seconds)

    @contextlib.contextmanager
    def virtual_host(self) -> Iterator[str]:
        name = f"test-{uuid.uuid4().hex}"
        with httpx.Client(base_url=self.management_url, timeout=30) as management:
            self._delete_rested(management)
            management.put(f"/api/vhosts/{name}").raise_for_status()
        yield name
        self._ended[name] = time.monotonic()

    def _delete_rested(self, management: httpx.Client) -> None:
        rested = time.monotonic() - self.REST_SECONDS
        if self._started_at < rested:
            for name in [name for name, ended in self._ended.items() if ended < rested]:
                management.delete(f"/api/vhosts/{name}").raise_for_status()
                del self._ended[name]


@pytest.fixture(scope="session")
def rabbitmq(server_folder: Path) -> Iterator[SharedRabbitMQ]:
    server = SharedRabbitMQ(server_folder / "rabbitmq").start()
    yield server
    server.kill()


@pytest.fixture
def own_postgres(server_folder: Path, tmp_path: Path) -> Iterator[EmbeddedPostgres]:
    """A server that may be stopped without hurting the other tests."""
    server = EmbeddedPostgres(server_folder / tmp_path.name, options={"fsync": "off"}).start()
    yield server
    server.kill()


@pytest.fixture
async def own_database(own_postgres: EmbeddedPostgres) -> str:
    await asyncio.to_thread(migrate, own_postgres.url)
    return own_postgres.url


async def run_sql(dsn: str, *statements: str) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()


@pytest.fixture(scope="session")
async def migrated_template(postgres: EmbeddedPostgres) -> str:
    await run_sql(postgres.url, f"CREATE DATABASE {TEMPLATE}")
    await asyncio.to_thread(migrate, postgres.url.replace("/postgres", f"/{TEMPLATE}"))
    return TEMPLATE


async def temporary_database(server: EmbeddedPostgres, template: str) -> AsyncIterator[str]:
    name = f"test_{uuid.uuid4().hex}"
    await run_sql(server.url, f"CREATE DATABASE {name} TEMPLATE {template}")
    yield server.url.replace("/postgres", f"/{name}")
    await run_sql(server.url, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
async def database(postgres: EmbeddedPostgres, migrated_template: str) -> AsyncIterator[str]:
    """The URL of a fresh database with the newest schema."""
    async for url in temporary_database(postgres, migrated_template):
        yield url


@pytest.fixture
async def empty_database(postgres: EmbeddedPostgres) -> AsyncIterator[str]:
    """The URL of a fresh database without any table."""
    async for url in temporary_database(postgres, "template1"):
        yield url


@pytest.fixture
def broker(rabbitmq: SharedRabbitMQ) -> Iterator[str]:
    """The AMQP URL of a fresh virtual host."""
    with rabbitmq.virtual_host() as name:
        yield rabbitmq.url + name


@pytest.fixture(scope="session")
def eventually() -> Eventually:
    """Waits for a condition, sync or async: until it gives something true (and gives that), or the
    deadline.

    A failed assertion in it counts as "not yet", and is what is raised in the end.
    """

    async def wait(
        condition: Callable[[], Any | Awaitable[Any]], *, within_seconds: float = 120.0
    ) -> Any:
        deadline = time.monotonic() + within_seconds
        while True:
            late = time.monotonic() > deadline
            try:
                result = condition()
                if inspect.isawaitable(result):
                    result = await result
                if result:
                    return result
                assert not late, f"still {result!r} after {within_seconds:g} s"
            except AssertionError:
                if late:
                    raise
            await asyncio.sleep(0.02)

    return wait


@pytest.fixture(scope="session")
def process_tree() -> ProcessTree:
    """The command lines, by pid, of a process and all that descend from it; without one, of all
    processes."""

    def tree(root: int = 1) -> dict[int, str]:
        top = psutil.Process(root)
        processes = [top, *top.children(recursive=True)] if root != 1 else psutil.process_iter()
        found = {}
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                # A zombie has ended; who has not read its exit code yet is another question.
                if process.status() != psutil.STATUS_ZOMBIE:
                    found[process.pid] = " ".join(process.cmdline()) or process.name()
        return found

    return tree


def thresholds_of(settings: dict[str, Any]) -> dict[str, Any]:
    """Take those out of the settings that an api reads from the database."""
    return {name: settings.pop(name) for name in {*settings} & {*Thresholds.__struct_fields__}}


async def write_thresholds(dsn: str, thresholds: dict[str, Any]) -> None:
    """Write the thresholds as a leader does, where a test has none."""
    values = ", ".join(f"{name} = {value}" for name, value in thresholds.items())
    await run_sql(dsn, f"UPDATE observation SET {values}")


def role_environment(**settings: object) -> dict[str, str]:
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith("MANMAN_STATUS_")
    }
    return kept | {f"MANMAN_STATUS_{name.upper()}": str(value) for name, value in settings.items()}


async def run_command(*arguments: str, **settings: object) -> tuple[int, str]:
    """Run `manman-status` to its end, with these settings alone. Its exit code and all that it
    wrote."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "manman_status", *arguments),
        env=role_environment(**settings),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, output.decode()


@pytest.fixture
def start_role(server_folder: Path) -> Iterator[Callable[..., Role]]:
    """Starts one role with these settings and does not wait; all that were started are gone after
    the test."""
    started: list[Role] = []

    def start(role: str, **settings: object) -> Role:
        command = [sys.executable, "-m", "manman_status", "serve", "--role", role]
        log_file = server_folder / f"{role}-{uuid.uuid4().hex[:8]}.log"
        started.append(Role(role, command, log_file=log_file, env=role_environment(**settings)))
        return started[-1]

    yield start
    for role in started:
        if "COVERAGE_PROCESS_CONFIG" in os.environ:
            role.stop()  # a process that is killed leaves no figures
        role.kill()


async def consumers(broker: str, queue: str) -> int:
    """Count its consumers; 0 while there is no such queue."""
    async with await aio_pika.connect(broker) as connection:
        try:
            channel = await connection.channel()
            found = await channel.declare_queue(queue, passive=True)
        except aio_pika.exceptions.ChannelNotFoundEntity:
            return 0
        return found.declaration_result.consumer_count or 0


@pytest.fixture
def start_processor(
    start_role: Callable[..., Role], database: str, broker: str, eventually: Eventually
) -> StartRole:
    """Starts a processor, with more settings where given, and waits until it subscribes to all
    queues."""

    async def start(**settings: object) -> Role:
        urls = {"database_url": database, "rabbitmq_url": broker}
        role = start_role("processor", **{**urls, **settings})

        def subscribes() -> bool:
            if role.returncode is not None:
                raise role.ended(role.returncode)
            return "queues_subscribed" in role.log

        await eventually(subscribes)
        return role

    return start


@pytest.fixture
async def processor(start_processor: StartRole) -> Role:
    return await start_processor()


@pytest.fixture
def start_api(start_role: Callable[..., Role], database: str, eventually: Eventually) -> StartRole:
    """Starts an api on a free port, with more settings where given, and waits until it answers
    `/livez`."""

    async def start(**settings: object) -> Role:
        port = free_port()
        given = {
            "database_url": database,
            "host": "127.0.0.1",
            "port": port,
            "database_timeout_seconds": 60,
        }
        merged: dict[str, Any] = {**given, **settings}
        if thresholds := thresholds_of(merged):
            await write_thresholds(merged["database_url"] or database, thresholds)
        role = start_role("api", **merged)
        role.url = f"http://127.0.0.1:{port}"

        async def lives() -> bool:
            if role.returncode is not None:
                raise role.ended(role.returncode)
            try:
                return (await client.get("/livez")).status_code == httpx.codes.OK
            except httpx.TransportError:
                return False

        async with httpx.AsyncClient(base_url=role.url) as client:
            await eventually(lives)
        return role

    return start


@pytest.fixture
async def api(start_api: StartRole) -> Role:
    return await start_api()
