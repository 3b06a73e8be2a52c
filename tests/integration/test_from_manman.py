"""Take the place of ManMan's own status service: its environment, its URLs, and every command of
docs/from-manman.md."""

from __future__ import annotations

import asyncio
import re
import shlex
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

import aio_pika
import asyncpg
import pytest

from tests.integration.cli.conftest import manman_status as manman_status  # noqa: PLC0414
from tests.manman import TABLES

if TYPE_CHECKING:
    from collections.abc import Callable

    from manman_status.dev.rabbitmq import EmbeddedRabbitMQ
    from tests.integration.cli.conftest import Command
    from tests.kinds import Eventually, Role, StartRole

PAGE = (Path(__file__).parents[2] / "docs/from-manman.md").read_text("utf-8")
MANMAN = f"""
CREATE TABLE public.alembic_version (version_num text); INSERT INTO alembic_version VALUES ('997d');
{TABLES}
"""

OURS_UNSET = {"database_url": "", "rabbitmq_url": ""}
DRIVERS = ("postgresql+psycopg2", "postgresql+asyncpg", "postgresql+psycopg", "postgres")


def with_driver(url: str, scheme: str = DRIVERS[0]) -> str:
    return urlsplit(url)._replace(scheme=scheme).geturl()


@pytest.fixture
def their_environment(monkeypatch: pytest.MonkeyPatch, broker: str) -> None:
    """Variables of ManMan's that name this test's broker, and Kubernetes' link to a Service."""
    mq = urlsplit(broker)
    for name, value in {
        "RABBITMQ_HOST": mq.hostname,
        "RABBITMQ_PORT": str(mq.port),
        "RABBITMQ_VHOST": unquote(mq.path[1:]),
        "MANMAN_STATUS_PORT": "tcp://10.0.0.1:8000",
    }.items():
        monkeypatch.setenv(name, value or "")


async def test_a_processor_starts_with_manman_s_variables_and_says_so(
    their_environment: None,
    monkeypatch: pytest.MonkeyPatch,
    database: str,
    start_processor: StartRole,
) -> None:
    monkeypatch.setenv("POSTGRES_URL", with_driver(database))
    processor = await start_processor(**OURS_UNSET, port="tcp://10.0.0.1:8000")
    first, second, third = processor.log.splitlines()[:3]
    assert '"MANMAN_STATUS_DATABASE_URL", "variables": ["POSTGRES_URL"]' in first
    assert '["RABBITMQ_HOST", "RABBITMQ_PORT", "RABBITMQ_VHOST"]' in second
    assert '["MANMAN_STATUS_PORT"], "event": "variables_ignored"' in third


async def test_doctor_names_the_variables_of_manman_that_count(
    their_environment: None,
    monkeypatch: pytest.MonkeyPatch,
    database: str,
    manman_status: Command,
) -> None:
    monkeypatch.setenv("MANMAN_POSTGRES_URL", with_driver(database).replace("@", ":s3cret@", 1))
    finished = await manman_status("doctor", build="7")
    assert "MANMAN_STATUS_DATABASE_URL is made of MANMAN_POSTGRES_URL" in finished.out
    assert "is made of RABBITMQ_HOST, RABBITMQ_PORT, RABBITMQ_VHOST" in finished.out
    assert "ignored: MANMAN_STATUS_BUILD" in finished.out
    assert "PostgreSQL" in finished.out
    assert "RabbitMQ" in finished.out
    assert "s3cret" not in finished.out + finished.err


@pytest.mark.parametrize("scheme", DRIVERS)
async def test_migrate_takes_a_url_of_any_driver(
    scheme: str, empty_database: str, manman_status: Command
) -> None:
    finished = await manman_status("migrate", database_url=with_driver(empty_database, scheme))
    assert (finished.code, finished.err) == (0, "")


async def test_migrate_says_that_it_uses_manman_s_database(
    empty_database: str, monkeypatch: pytest.MonkeyPatch, manman_status: Command
) -> None:
    """Another program's POSTGRES_URL is never used without a word."""
    monkeypatch.setenv("POSTGRES_URL", empty_database)
    finished = await manman_status("migrate")
    assert finished.code == 0, finished.err
    assert finished.err == "manman-status: MANMAN_STATUS_DATABASE_URL is made of POSTGRES_URL\n"


def commands(program: str) -> list[list[str]]:
    """The lines of the document that run it, as words."""
    return [shlex.split(line) for line in re.findall(rf"^ +({program} .+)$", PAGE, re.MULTILINE)]


def exported(name: str) -> str:
    [value] = re.findall(rf"^ +export MANMAN_STATUS_{name}='?([^'\n]+)'?$", PAGE, re.MULTILINE)
    return str(value)


def statements() -> list[str]:
    found = re.findall(r"^ *```sql\n(.*?)^ *```$", PAGE, re.MULTILINE | re.DOTALL)
    assert found
    return found


async def test_the_service_runs_beside_manman_as_the_document_says(
    empty_database: str,
    broker: str,
    manman_status: Command,
    start_processor: StartRole,
    start_api: StartRole,
) -> None:
    await execute(empty_database, MANMAN)
    settings = {
        "database_url": f"{empty_database}?{urlsplit(exported('DATABASE_URL')).query}",
        "rabbitmq_url": broker,
        "outbound_exchange": exported("OUTBOUND_EXCHANGE"),
        "minimum_timeout_seconds": exported("MINIMUM_TIMEOUT_SECONDS"),
    }
    for _, *words in commands("manman-status"):
        match words:
            case ["serve", "--role", "processor"]:
                await start_processor(**settings)
            case ["serve", "--role", "api"]:
                settings["url"] = (await start_api(**settings)).url
            case ["bridge", *_]:
                pass  # the test below
            case _:
                finished = await manman_status(*words, **settings)
                assert finished.code == 0, finished.out + finished.err
    assert len(commands("manman-status")) >= 5


async def test_the_queues_that_are_left_can_be_deleted_as_the_document_says(
    broker: str, rabbitmq: EmbeddedRabbitMQ
) -> None:
    lines = commands("rabbitmqctl")
    names = [words[-1] for words in lines]
    async with await aio_pika.connect(broker) as connection:
        channel = await connection.channel()
        for name in names:
            await channel.declare_queue(name, durable=True)
    assert [name.partition("-queue")[0] for name in names[:2]] == [
        "status-processor-internal",
        "status-processor-external",
    ]
    virtual_host = unquote(urlsplit(broker).path[1:])
    program = rabbitmq._server.with_name("rabbitmqctl")
    for _, *words in lines:
        given = [virtual_host if word == "manman-dev" else word for word in words]
        command = [str(program), *given]
        environment = rabbitmq._environment()
        await asyncio.to_thread(subprocess.check_output, command, env=environment)
    async with await aio_pika.connect(broker) as connection:
        for name in names:
            with pytest.raises(aio_pika.exceptions.ChannelNotFoundEntity):
                await (await connection.channel()).get_queue(name)


async def test_a_bridge_runs_and_goes_with_the_rights_of_the_document(
    database: str,
    empty_database: str,
    broker: str,
    processor: Role,
    start_role: Callable[..., Role],
    manman_status: Command,
    eventually: Eventually,
) -> None:
    """Its user may do nothing else in ManMan's database. Dropping our schema leaves theirs."""
    await execute(empty_database, MANMAN)
    url = f"{empty_database}?search_path=manman_status"
    assert (await manman_status("migrate", database_url=url)).code == 0
    connection = await asyncpg.connect(empty_database)
    user = urlsplit(exported("MANMAN_DATABASE_URL")).username
    at = urlsplit(empty_database)
    host = at.netloc.rpartition("@")[2]
    settings = {
        "database_url": database,
        "rabbitmq_url": broker,
        "manman_database_url": at._replace(netloc=f"{user}@{host}").geturl(),
        "write_status_info": "true",
    }
    try:
        for text in statements():
            await connection.execute(text)
        bridge = start_role("bridge", **settings)
        await eventually(lambda: "bridge_started" in bridge.log)
        bridge.stop()
        removed = await manman_status("bridge", "remove", "manman", database_url=database)
        assert removed.code == 0, removed.err
        await connection.execute(f"SET ROLE {user}")
        for sql in ("DELETE FROM manman.workers", "SELECT 1 FROM manman.status_info"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute(sql)
        await connection.execute("RESET ROLE")
        assert await connection.fetchval("SELECT to_regnamespace('manman_status')") is None
        assert await connection.fetchval("SELECT version_num FROM alembic_version") == "997d"
    finally:
        await connection.execute(f"RESET ROLE; DROP OWNED BY {user}; DROP ROLE {user}")
        await connection.close()


async def execute(url: str, sql: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(sql)
    finally:
        await connection.close()
